//! What happened: a bounded log, and streams of it for whoever listens.
//!
//! Two kinds: events of ports and configuration, of which the newest are kept, and changes of the
//! forwarding database, which only pass by. A reader that is too slow loses the oldest and is told
//! how many; nothing ever waits for one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;
use vswitch_api::types::{Event, EventLevel, FdbEvent};

use crate::store::timestamp;

/// How many events are kept.
pub const KEPT: usize = 4096;
/// How far a reader of the FDB's changes may fall behind.
const FDB_BEHIND: usize = 8192;

/// The log and the streams. Clones are the same log.
#[derive(Clone, Debug)]
pub struct Events {
    log: Arc<Mutex<Log>>,
    stream: broadcast::Sender<Event>,
    fdb: broadcast::Sender<FdbEvent>,
}

#[derive(Debug, Default)]
struct Log {
    next: u64,
    kept: VecDeque<Event>,
}

impl Default for Events {
    fn default() -> Self {
        let log = Arc::new(Mutex::new(Log { next: 1, kept: VecDeque::new() }));
        Self { log, stream: broadcast::Sender::new(KEPT), fdb: broadcast::Sender::new(FDB_BEHIND) }
    }
}

impl Events {
    /// Notes an event, and logs it at its level.
    pub fn add(&self, level: EventLevel, event: &str, subject: &str, message: &str) {
        let about = if subject.is_empty() { "" } else { ": " };
        match level {
            EventLevel::Info => tracing::info!(event, "{subject}{about}{message}"),
            EventLevel::Warn => tracing::warn!(event, "{subject}{about}{message}"),
            EventLevel::Error => tracing::error!(event, "{subject}{about}{message}"),
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event {
            number: log.next,
            time: timestamp(SystemTime::now()),
            level,
            event: event.to_owned(),
            subject: subject.to_owned(),
            message: message.to_owned(),
        };
        log.next += 1;
        if log.kept.len() >= KEPT {
            log.kept.pop_front();
        }
        log.kept.push_back(event.clone());
        // Nobody may be listening.
        let _ = self.stream.send(event);
    }

    /// The kept events and, without a gap between them, the stream of what follows.
    pub fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        // Under the lock, so that no event falls between the two or is in both.
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        (log.kept.iter().cloned().collect(), self.stream.subscribe())
    }

    /// The stream of the FDB's changes.
    pub fn monitor(&self) -> broadcast::Receiver<FdbEvent> {
        self.fdb.subscribe()
    }

    /// Whether anyone listens to the FDB's changes: making them costs something.
    pub fn is_monitored(&self) -> bool {
        self.fdb.receiver_count() > 0
    }

    /// Tells of a change of the FDB.
    pub fn fdb_changed(&self, event: FdbEvent) {
        let _ = self.fdb.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_numbers_have_no_gaps() {
        let events = Events::default();
        for n in 0..KEPT + 10 {
            events.add(EventLevel::Info, "test", "", &n.to_string());
        }
        let (kept, mut stream) = events.follow();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].number, 11);
        events.add(EventLevel::Info, "test", "", "next");
        assert_eq!(stream.try_recv().unwrap().number, kept[KEPT - 1].number + 1);
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_and_is_told_how_many() {
        let events = Events::default();
        let (_, mut stream) = events.follow();
        for _ in 0..KEPT + 5 {
            events.add(EventLevel::Info, "test", "", "");
        }
        let lost = match stream.try_recv() {
            Err(broadcast::error::TryRecvError::Lagged(lost)) => lost,
            other => panic!("{other:?}"),
        };
        assert_eq!(stream.try_recv().unwrap().number, lost + 1);
    }
}
