//! Which frames of a burst are samples.

use crate::batch::BURST_MAX;
use crate::config::{PortConf, Snapshot};
use crate::watch::SAMPLERS_MAX;

/// The frames of a burst that each sampler takes: a bit each.
pub(super) type Samples = [u64; SAMPLERS_MAX];

const _: () = assert!(BURST_MAX <= u64::BITS as usize);

/// How many frames come before the next sample of each sampler.
#[derive(Debug)]
pub(super) struct Countdown {
    left: [u32; SAMPLERS_MAX],
    random: u64,
}

impl Countdown {
    /// Workers with different numbers do not take their samples at the same places.
    pub(super) fn new(worker: usize) -> Self {
        Self { left: [0; SAMPLERS_MAX], random: worker as u64 }
    }

    /// Every sampler begins anew, somewhere.
    pub(super) fn restart(&mut self, snapshot: &Snapshot) {
        for (at, sampler) in snapshot.samplers().iter().enumerate().take(SAMPLERS_MAX) {
            self.left[at] = self.skip(sampler.one_in);
        }
    }

    /// The samples among the next `frames` of a port.
    pub(super) fn samples(
        &mut self,
        port: &PortConf,
        snapshot: &Snapshot,
        frames: usize,
    ) -> Samples {
        let mut samples = Samples::default();
        for (at, sampler) in snapshot.samplers().iter().enumerate().take(SAMPLERS_MAX) {
            if !sampler.is_of(port) {
                continue;
            }
            let (mut next, frames) = (self.left[at], frames as u32);
            while next < frames {
                samples[at] |= 1 << next;
                next = next.saturating_add(1).saturating_add(self.skip(sampler.one_in));
            }
            self.left[at] = next - frames;
        }
        samples
    }

    /// Frames between two samples: any number up to twice the mean, each as likely.
    fn skip(&mut self, one_in: u32) -> u32 {
        // SplitMix64 (Steele, Lea, Flood 2014): its state is a counter, so that every seed is good.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let range = u64::from(one_in.max(1)) * 2 - 1;
        ((u128::from(mixed ^ mixed >> 31) * u128::from(range)) >> 64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_as_long_as_they_should_be() {
        for one_in in [1, 2, 10, 1000] {
            let mut countdown = Countdown::new(3);
            let skips: Vec<u32> = (0..20_000).map(|_| countdown.skip(one_in)).collect();
            let mean = skips.iter().map(|skip| f64::from(*skip)).sum::<f64>() / 20_000.0;
            let wanted = f64::from(one_in) - 1.0;
            assert!((mean - wanted).abs() <= wanted * 0.03, "{mean} of {wanted}");
            assert!(skips.iter().all(|skip| *skip <= 2 * one_in - 2));
        }
    }
}
