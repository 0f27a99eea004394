//! Why a port that sends rubbish does not slow the others down.
//!
//! A frame that is known to leave by one port is cheap. One that teaches a new address, is flooded or
//! dropped (a *stray*) costs several times as much, and whoever sends nothing else could take most of a
//! worker's time with a tenth of its frames. So a port pays for each stray by waiting until others had
//! so many frames forwarded. Its frames meanwhile wait in the device's queue; what does not fit there
//! is `missed-rx` on that port alone.
//!
//! A worker that has nothing else to do takes strays as they come.

/// Frames of others that have to be forwarded for each stray. A stray costs eight to twelve times
/// what they do, so that strays take a tenth of a busy worker at most.
const PRICE: u64 = 128;
/// One of so many frames may be a stray for nothing. An uplink or a VTEP carries some for many senders:
/// with a twentieth it would be left a fifth of its rate, all of its unicast with it.
const USUAL: usize = 16;
/// How many strays a port may send at once after it was quiet: a guest that boots, a burst of ARP.
const CREDIT: u64 = 64 * PRICE;

/// What a worker has forwarded that was no stray, and whom it holds back.
#[derive(Debug)]
pub(super) struct Passed {
    frames: u64,
    /// In this turn a port was held back.
    held: bool,
    /// In this turn no other port had a frame.
    idle: bool,
}

impl Default for Passed {
    fn default() -> Self {
        Self { frames: CREDIT, held: false, idle: false }
    }
}

impl Passed {
    #[inline(always)]
    pub(super) fn add(&mut self, frames: usize) {
        self.frames = self.frames.wrapping_add(frames as u64);
    }

    /// No port had a frame: whether there is one that was held back, which is not for this turn any
    /// more.
    #[inline(always)]
    pub(super) fn nobody_else(&mut self) -> bool {
        self.idle = self.held;
        self.held
    }

    #[inline(always)]
    pub(super) fn end_turn(&mut self) {
        (self.held, self.idle) = (false, false);
    }
}

/// How long a port waits.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Until the worker has forwarded so many.
    until: u64,
}

impl Rest {
    /// Whether nothing is to be received from the port in this turn.
    #[inline(always)]
    pub(super) fn holds(&self, passed: &mut Passed) -> bool {
        let holds = self.until > passed.frames && !passed.idle;
        passed.held |= holds;
        holds
    }

    /// The port had a burst of so many `frames`, of which so many were `strays`.
    pub(super) fn charge(&mut self, frames: usize, strays: usize, passed: &Passed) {
        let strays = strays.saturating_sub(frames / USUAL);
        if strays == 0 {
            return;
        }
        // What was owed when the worker had nothing else to do is forgiven.
        let owed = if passed.idle { 0 } else { self.until };
        let from = owed.max(passed.frames.saturating_sub(CREDIT));
        self.until = from.saturating_add(PRICE.saturating_mul(strays as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker with a port of which each burst of 64 has so many `strays` and, if it is `busy`, one of
    /// plain frames, each with a full burst in every turn it is asked. How many frames of each were taken.
    fn share(turns: usize, busy: bool, strays: usize) -> (usize, usize) {
        let (mut passed, mut rest) = (Passed::default(), Rest::default());
        let (mut plain, mut taken) = (0, 0);
        for _ in 0..turns {
            if busy {
                passed.add(64);
                plain += 64;
            }
            let held = rest.holds(&mut passed) && (busy || !passed.nobody_else());
            if !held {
                passed.add(64 - strays);
                rest.charge(64, strays, &passed);
                taken += 64;
            }
            passed.end_turn();
        }
        (plain, taken)
    }

    #[test]
    fn strays_take_their_share_of_a_busy_worker_and_no_more() {
        let (plain, strays) = share(PRICE as usize * 100, true, 64);
        let paid = (strays - strays / USUAL) as u64;
        let (plain, owed) = (plain as u64, paid * PRICE);
        assert!((plain - 64 * PRICE..=plain + CREDIT + 64 * PRICE).contains(&owed), "{owed}");
    }

    #[test]
    fn an_idle_worker_takes_all_strays() {
        assert_eq!(share(1000, false, 64), (0, 64_000));
    }

    #[test]
    fn a_port_with_the_usual_strays_keeps_its_rate() {
        assert_eq!(share(100_000, true, 64 / USUAL), (6_400_000, 6_400_000));
    }

    #[test]
    fn a_quiet_port_may_send_a_burst_of_strays() {
        let (mut passed, mut rest) = (Passed::default(), Rest::default());
        rest.charge(64, 64, &passed);
        rest.charge(4, 4, &passed);
        assert!(!rest.holds(&mut passed));
        rest.charge(1, 1, &passed);
        assert!(rest.holds(&mut passed));
        passed.add(PRICE as usize);
        assert!(!rest.holds(&mut passed));
    }
}
