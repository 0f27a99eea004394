//! What is to happen to a frame: the answer of bridging, and of what may come before it.

use arrayvec::ArrayVec;

use crate::drop::DropReason;
use crate::ids::PortId;

/// One step of a [`Verdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it out of this port, tagged as the port's VLANs say.
    Output(PortId),
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
pub struct Verdict(ArrayVec<Action, ACTIONS_MAX>);

impl Verdict {
    /// A single action.
    pub fn new(action: Action) -> Self {
        let mut actions = ArrayVec::new();
        actions.push(action);
        Self(actions)
    }

    /// A drop.
    pub fn drop(reason: DropReason) -> Self {
        Self::new(Action::Drop(reason))
    }

    /// Adds an action at the end; false if there are [`ACTIONS_MAX`] already.
    pub fn then(&mut self, action: Action) -> bool {
        self.0.try_push(action).is_ok()
    }

    /// The actions, at least one.
    pub fn actions(&self) -> &[Action] {
        &self.0
    }
}
