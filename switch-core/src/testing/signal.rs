//! What ends the wait of a worker on in-memory devices.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::datapath::Wake;

/// A worker's doorbell: rung stays rung until a wait has heard it.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Signal {
    /// Waits for a ring until `deadline` and takes it.
    pub(super) fn wait_until(&self, deadline: Instant) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        while !*rung {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            let woken = self.bell.wait_timeout(rung, left);
            rung = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
    }
}

impl Wake for Signal {
    fn wake(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_one();
    }
}
