//! The figures of RFC 2544: maximum, NDR, PDR, and latency at shares of the NDR.

use anyhow::{Result, ensure};

use super::super::result::{BOUND, Latency, Measured, Rate, Searched};
use super::super::search::{Found, Goal, search};
use super::super::trial::{Ask, Offer, Rig};
use super::{LOADS, Place, Session, Stoppable};

/// Share of loss of a partial drop rate.
const PARTIAL: f64 = 0.005;
/// How far above the maximum receive rate a no-drop rate is looked for: overload slows some down.
const ABOVE: f64 = 1.25;

impl Session<'_> {
    pub(super) fn figures(
        &self,
        place: &Place<'_>,
        rig: &mut Stoppable<'_>,
        say: &dyn Fn(&str),
    ) -> Result<Measured> {
        let Place { of, ceiling, .. } = *place;
        let line_rate = rig.generator.link_mbps().map(|mbps| of.row.line_rate(mbps));
        say("maximum receive rate");
        let flood = rig.trial(self.ask(Offer::Flood))?;
        ensure!(
            flood.sent > 0,
            "the generator could not send a single frame in {:?}: its CPU or the switch's is taken by \
             something else",
            self.options.plan.trial
        );
        ensure!(flood.received > 0, "it carried nothing of a flood of {} frames", flood.sent);
        let maximum = Rate::of(&flood);
        let mut measured = Measured { line_rate, ..Measured::new(of, ceiling.ports, maximum) };
        if self.options.search {
            let above = (ABOVE * maximum.pps).min(line_rate.unwrap_or(f64::INFINITY));
            self.search(&mut measured, rig, above.min(ceiling.pps))?;
        }
        let base = measured.ndr.or(measured.pdr).unwrap_or(maximum).pps;
        for load in LOADS.into_iter().filter(|_| self.options.latency) {
            say("latency");
            let ask = Ask { latency: true, ..self.ask(Offer::Rate(base * load)) };
            measured.latency.extend(Latency::of(load, &rig.trial(ask)?));
        }
        if measured.ndr.is_none() && !measured.latency.is_empty() {
            let of = if measured.pdr.is_some() { "PDR" } else { "maximum" };
            measured.notes.push(format!("the loads of latencies are shares of the {of}"));
        }
        let figures = [("maximum", Some(maximum)), ("NDR", measured.ndr), ("PDR", measured.pdr)];
        let bound = |rate: Option<Rate>| rate.is_some_and(|rate| rate.pps > BOUND * ceiling.pps);
        let generator_bound = figures.into_iter().filter(|(_, r)| bound(*r)).map(|(n, _)| n);
        measured.generator_bound = generator_bound.collect();
        Ok(measured)
    }

    /// NDR and PDR, up to `highest` frames a second.
    fn search(&self, measured: &mut Measured, rig: &mut Stoppable<'_>, highest: f64) -> Result<()> {
        let (plan, sut) = (self.options.plan, measured.of.sut);
        let mut earlier = Vec::new();
        for (figure, tolerated) in [("NDR", 0.0), ("PDR", PARTIAL)] {
            let goal = Goal { tolerated, highest, earlier: &earlier };
            let found = search(rig, plan, goal, &|step| self.tell(sut, figure, step))?;
            let rate = Rate::found(&found);
            // What loses nothing loses no more than a share.
            let known = measured.ndr.filter(|ndr| rate.is_none_or(|rate| rate.pps < ndr.pps));
            measured.notes.extend(match known {
                Some(_) => Some(format!("{figure}: none above the NDR was confirmed")),
                None => remark(figure, &found),
            });
            *(if tolerated > 0.0 { &mut measured.pdr } else { &mut measured.ndr }) = known.or(rate);
            measured.searches.push(Searched { figure, trials: found.tried.clone() });
            earlier = found.tried;
        }
        Ok(())
    }
}

/// What is to be said of a search.
fn remark(figure: &str, found: &Found) -> Option<String> {
    let but = found.limited.as_ref();
    match (found.rate, found.tried.last()) {
        (Some(_), _) => but.map(|why| format!("{figure}: not searched higher, as {why}")),
        (None, Some(last)) => {
            let (mpps, loss) = (last.rate / 1e6, 100.0 * found.trial.loss());
            let lost = format!("{} of {} frames ({loss:.4} %) were lost", last.lost, last.offered);
            Some(match but {
                Some(why) => format!("no {figure}: even at {mpps:.3} Mpps {why}; {lost}"),
                None => format!("no {figure}: {lost} even at {mpps:.3} Mpps"),
            })
        }
        (None, None) => None,
    }
}
