//! What is to happen to a frame: the answer of bridging, and of what may come before it.

use arrayvec::ArrayVec;

use crate::drop::DropReason;
use crate::ids::{PeerId, PortId};

/// One step of a [`Verdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it out of this port, tagged as the port's VLANs say.
    Output(PortId),
    /// Send it to a remote VTEP, through the tunnel of its VLAN that has it as a peer.
    Remote(PeerId),
    /// Send it to every member of its VLAN that may have it, but not back.
    Flood,
    /// End it.
    Drop(DropReason),
}

/// Most actions of one verdict.
pub const ACTIONS_MAX: usize = 4;

/// What is to happen to one frame, in order. The last action gets the frame itself, those before
/// get copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Kept apart, as nearly every verdict has no other.
    last: Action,
    before: ArrayVec<Action, { ACTIONS_MAX - 1 }>,
}

impl Verdict {
    /// A single action.
    #[inline]
    pub fn new(action: Action) -> Self {
        Self { last: action, before: ArrayVec::new() }
    }

    /// A drop.
    #[inline]
    pub fn drop(reason: DropReason) -> Self {
        Self::new(Action::Drop(reason))
    }

    /// Adds an action at the end; false if there are [`ACTIONS_MAX`] already.
    pub fn then(&mut self, action: Action) -> bool {
        let fits = self.before.try_push(self.last).is_ok();
        if fits {
            self.last = action;
        }
        fits
    }

    /// The actions, at least one.
    pub fn actions(&self) -> impl Iterator<Item = Action> + '_ {
        self.before.iter().copied().chain([self.last])
    }

    /// The last action, and those before it.
    #[inline]
    pub fn split_last(&self) -> (Action, &[Action]) {
        (self.last, &self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_stay_in_order_and_are_bounded() {
        let mut verdict = Verdict::new(Action::Flood);
        let drop = Action::Drop(DropReason::Hairpin);
        assert_eq!(verdict.split_last(), (Action::Flood, &[][..]));
        for n in 1..ACTIONS_MAX {
            assert!(verdict.then(drop));
            assert_eq!(verdict.actions().count(), n + 1);
        }
        assert!(!verdict.then(Action::Flood));
        assert_eq!(verdict.actions().next(), Some(Action::Flood));
        assert_eq!(verdict.split_last(), (drop, &[Action::Flood, drop, drop][..]));
    }
}
