//! From destinations to next hops, with the kernel's routes and neighbours: what is asked, what is
//! believed and for how long. Time is an argument, and the kernel a trait.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use datapath_tap::routes::{Holds, Neighbour, Reach, Route};

use super::hops::{Entry, Hop, Table, key};

/// How often neighbours in use are confirmed: before the kernel forgets them, or that they are there
/// (it takes 15 s at least to be unsure).
pub(super) const CONFIRM: Duration = Duration::from_secs(10);
/// After how many such rounds a destination that nobody sends to is forgotten.
const IDLE_ROUNDS: u8 = 6;
/// How soon a neighbour that does not answer is asked for again at first …
const RETRY: Duration = Duration::from_secs(1);
/// … and at last. The time doubles in between.
const RETRY_LAST: Duration = Duration::from_secs(30);
/// How long the kernel asks (three times, a second apart) before it says that there is no answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Most destinations of one uplink: more than there can be peers.
const DESTINATIONS_MAX: usize = 1 << 20;

/// What is asked of the kernel.
pub(super) trait Kernel {
    /// The way to a destination by the uplink; `None` if no route leads there by it.
    fn route(&mut self, to: IpAddr, from: IpAddr) -> Option<Route>;
    /// Has it find or confirm a neighbour. False if it refuses to.
    fn use_neighbour(&mut self, addr: IpAddr) -> bool;
}

#[derive(Debug)]
struct Destination {
    from: IpAddr,
    /// `None` where there is no route.
    via: Option<IpAddr>,
    used: Arc<AtomicBool>,
    /// Rounds in which nobody used it.
    idle: u8,
}

/// A neighbour that some destination needs.
#[derive(Debug)]
struct Next {
    reach: Reach,
    /// Destinations by way of it.
    users: HashSet<IpAddr>,
    /// Whether the kernel was told to ask for it and has not said how that ended.
    asked: bool,
    /// When something is to be done about it, if it is not known.
    retry_at: Instant,
    pause: Duration,
}

/// All destinations of an uplink that were asked for.
#[derive(Debug)]
pub(super) struct Resolver {
    destinations: HashMap<IpAddr, Destination>,
    neighbours: HashMap<IpAddr, Next>,
    /// All neighbours that the kernel has on the uplink: of one that it knows it tells nothing more.
    known: HashMap<IpAddr, Reach>,
    /// Neighbours that are not known, and so have a time at which something is to be done.
    unknown: BTreeSet<IpAddr>,
    table: Table,
    changed: bool,
    confirm_at: Instant,
}

impl Resolver {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            destinations: HashMap::new(),
            neighbours: HashMap::new(),
            known: HashMap::new(),
            unknown: BTreeSet::new(),
            table: Table::default(),
            changed: false,
            confirm_at: now + CONFIRM,
        }
    }

    /// The next table, if anything is different.
    pub(super) fn take_change(&mut self) -> Option<Table> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.table.generation += 1;
        Some(self.table.clone())
    }

    /// Whether packets go there.
    pub(super) fn knows(&self, to: IpAddr) -> bool {
        self.destinations.contains_key(&to)
    }

    /// A worker has a packet for a destination it does not know.
    pub(super) fn ask(&mut self, to: IpAddr, from: IpAddr, kernel: &mut impl Kernel, now: Instant) {
        if self.destinations.contains_key(&to) {
            // It has become known meanwhile, or its neighbour is being asked already.
            self.changed = true;
            return;
        }
        if self.destinations.len() >= DESTINATIONS_MAX {
            return;
        }
        // Whoever asks uses it.
        let used = Arc::new(AtomicBool::new(true));
        self.destinations.insert(to, Destination { from, via: None, used, idle: 0 });
        self.lead(to, kernel, now);
    }

    /// Looks up the route of a destination and enters it with its neighbour.
    fn lead(&mut self, to: IpAddr, kernel: &mut impl Kernel, now: Instant) {
        let Some(destination) = self.destinations.get_mut(&to) else { return };
        let before = destination.via;
        let via = kernel.route(to, destination.from).map(|route| route.gateway.unwrap_or(to));
        destination.via = via;
        if before != via
            && let Some(before) = before
        {
            self.leave(before, to);
        }
        if let Some(via) = via {
            let next = self.neighbours.entry(via).or_insert_with(|| Next {
                reach: Reach::Unknown,
                users: HashSet::new(),
                asked: false,
                retry_at: now + ANSWER,
                pause: RETRY,
            });
            let is_new = next.users.is_empty();
            next.users.insert(to);
            if is_new {
                match self.known.get(&via) {
                    Some(reach @ Reach::At { holds, .. }) => {
                        next.reach = *reach;
                        if *holds == Holds::Perhaps {
                            kernel.use_neighbour(via);
                        }
                    }
                    _ => {
                        self.unknown.insert(via);
                        self.seek(via, kernel, now);
                    }
                }
            }
        }
        self.enter(to);
    }

    /// A destination is not reached by way of that neighbour any more.
    fn leave(&mut self, via: IpAddr, to: IpAddr) {
        let Some(next) = self.neighbours.get_mut(&via) else { return };
        next.users.remove(&to);
        if next.users.is_empty() {
            self.neighbours.remove(&via);
            self.unknown.remove(&via);
        }
    }

    /// Asks the kernel for a neighbour. The answer comes as news.
    fn seek(&mut self, via: IpAddr, kernel: &mut impl Kernel, now: Instant) {
        let Some(next) = self.neighbours.get_mut(&via) else { return };
        (next.asked, next.retry_at) = (true, now + ANSWER);
        if !kernel.use_neighbour(via) {
            self.fails(via, now);
        }
    }

    fn fails(&mut self, via: IpAddr, now: Instant) {
        let Some(next) = self.neighbours.get_mut(&via) else { return };
        (next.reach, next.asked) = (Reach::Failed, false);
        next.retry_at = now + next.pause;
        next.pause = (next.pause * 2).min(RETRY_LAST);
        self.unknown.insert(via);
        self.enter_all(via);
    }

    /// The kernel told of a neighbour.
    pub(super) fn hear(&mut self, news: Neighbour, kernel: &mut impl Kernel, now: Instant) {
        match news.state {
            Reach::Unknown => drop(self.known.remove(&news.addr)),
            state => drop(self.known.insert(news.addr, state)),
        }
        let Some(next) = self.neighbours.get_mut(&news.addr) else { return };
        match news.state {
            Reach::At { mac, holds } => {
                let same = matches!(next.reach, Reach::At { mac: known, .. } if known == mac);
                (next.reach, next.asked) = (news.state, false);
                next.pause = RETRY;
                self.unknown.remove(&news.addr);
                if !same {
                    self.enter_all(news.addr);
                }
                if holds == Holds::Perhaps {
                    // In use as it is, it has to be confirmed: nothing else tells the kernel so.
                    kernel.use_neighbour(news.addr);
                }
            }
            Reach::Asked => {}
            Reach::Failed if next.asked || next.reach != Reach::Failed => {
                self.fails(news.addr, now);
            }
            Reach::Failed => {}
            Reach::Unknown => {
                // Somebody deleted it: it is asked for anew.
                if matches!(next.reach, Reach::At { .. }) {
                    next.reach = Reach::Unknown;
                    self.unknown.insert(news.addr);
                    self.enter_all(news.addr);
                    self.seek(news.addr, kernel, now);
                }
            }
        }
    }

    /// What the kernel has now, after news were lost.
    pub(super) fn hear_all(&mut self, all: &[Neighbour], kernel: &mut impl Kernel, now: Instant) {
        let there: HashSet<IpAddr> = all.iter().map(|neighbour| neighbour.addr).collect();
        let gone: Vec<IpAddr> =
            self.known.keys().filter(|addr| !there.contains(*addr)).copied().collect();
        for addr in gone {
            self.hear(Neighbour { device: 0, addr, state: Reach::Unknown }, kernel, now);
        }
        for neighbour in all {
            self.hear(*neighbour, kernel, now);
        }
    }

    /// Routes changed: every destination may be reached by another way.
    pub(super) fn lead_again(&mut self, kernel: &mut impl Kernel, now: Instant) {
        let all: Vec<IpAddr> = self.destinations.keys().copied().collect();
        for to in all {
            self.lead(to, kernel, now);
        }
    }

    /// When [`Self::run`] has something to do next.
    pub(super) fn due(&self) -> Instant {
        let next = self.unknown.iter().filter_map(|via| self.neighbours.get(via));
        next.map(|next| next.retry_at).fold(self.confirm_at, Instant::min)
    }

    /// Asks again for who did not answer, confirms who is in use, and forgets what nobody uses.
    pub(super) fn run(&mut self, kernel: &mut impl Kernel, now: Instant) {
        let due: Vec<IpAddr> = self
            .unknown
            .iter()
            .filter(|via| self.neighbours.get(via).is_some_and(|next| next.retry_at <= now))
            .copied()
            .collect();
        for via in due {
            if self.neighbours.get(&via).is_some_and(|next| next.asked) {
                // The kernel said nothing at all.
                self.fails(via, now);
            } else {
                self.seek(via, kernel, now);
            }
        }
        if now >= self.confirm_at {
            self.confirm_at = now + CONFIRM;
            self.confirm(kernel);
        }
    }

    fn confirm(&mut self, kernel: &mut impl Kernel) {
        let mut idle = Vec::new();
        let mut in_use = BTreeSet::new();
        for (to, destination) in &mut self.destinations {
            if destination.used.swap(false, Ordering::Relaxed) {
                destination.idle = 0;
                in_use.extend(destination.via);
            } else {
                destination.idle += 1;
                if destination.idle >= IDLE_ROUNDS {
                    idle.push(*to);
                }
            }
        }
        for to in idle {
            let via = self.destinations.remove(&to).and_then(|destination| destination.via);
            if let Some(via) = via {
                self.leave(via, to);
            }
            self.table.set(key(to), None);
        }
        for via in in_use {
            let reach = self.neighbours.get(&via).map(|next| next.reach);
            if let Some(Reach::At { holds: Holds::Now | Holds::Perhaps, .. }) = reach {
                kernel.use_neighbour(via);
            }
        }
        // Workers look anew at what they have at hand, which marks it as used.
        self.changed |= !self.destinations.is_empty();
    }

    fn enter_all(&mut self, via: IpAddr) {
        let users: Vec<IpAddr> = match self.neighbours.get(&via) {
            Some(next) => next.users.iter().copied().collect(),
            None => return,
        };
        for to in users {
            self.enter(to);
        }
    }

    /// Puts what is known of a destination into the table.
    fn enter(&mut self, to: IpAddr) {
        let Some(destination) = self.destinations.get(&to) else { return };
        let hop = match destination.via.map(|via| self.neighbours.get(&via).map(|n| n.reach)) {
            None => Some(Hop::NoRoute),
            Some(Some(Reach::At { mac, .. })) => Some(Hop::At(mac)),
            Some(Some(Reach::Failed)) => Some(Hop::Unresolved),
            Some(_) => None,
        };
        let key = key(to);
        if self.table.get(key).map(|entry| entry.hop) == hop {
            return;
        }
        let used = Arc::clone(&destination.used);
        self.table.set(key, hop.map(|hop| Entry { hop, used }));
        self.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake {
        /// By which router; no entry is no route.
        routes: HashMap<IpAddr, Option<IpAddr>>,
        asked: Vec<IpAddr>,
        refuses: bool,
    }

    impl Kernel for Fake {
        fn route(&mut self, to: IpAddr, _from: IpAddr) -> Option<Route> {
            let gateway = *self.routes.get(&to)?;
            Some(Route { device: 1, gateway, mtu: None })
        }

        fn use_neighbour(&mut self, addr: IpAddr) -> bool {
            self.asked.push(addr);
            !self.refuses
        }
    }

    fn ip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    struct Lab {
        resolver: Resolver,
        kernel: Fake,
        table: Table,
        now: Instant,
    }

    impl Lab {
        fn new(routes: &[(u8, Option<u8>)]) -> Self {
            let routes = routes.iter().map(|(to, via)| (ip(*to), via.map(ip)));
            let kernel = Fake { routes: routes.collect(), ..Fake::default() };
            let now = Instant::now();
            Self { resolver: Resolver::new(now), kernel, table: Table::default(), now }
        }

        fn ask(&mut self, to: u8) {
            self.resolver.ask(ip(to), ip(1), &mut self.kernel, self.now);
        }

        fn hear(&mut self, addr: u8, state: Reach) {
            let news = Neighbour { device: 1, addr: ip(addr), state };
            self.resolver.hear(news, &mut self.kernel, self.now);
        }

        fn later(&mut self, by: Duration) {
            self.now += by;
            self.resolver.run(&mut self.kernel, self.now);
        }

        fn asked(&mut self) -> Vec<IpAddr> {
            std::mem::take(&mut self.kernel.asked)
        }

        /// What workers see. A use of it marks it as used.
        fn hop(&mut self, to: u8) -> Option<Hop> {
            if let Some(table) = self.resolver.take_change() {
                assert!(table.generation > self.table.generation);
                self.table = table;
            }
            let entry = self.table.get(key(ip(to)))?;
            entry.used.store(true, Ordering::Relaxed);
            Some(entry.hop)
        }
    }

    fn at(n: u8) -> Reach {
        Reach::At { mac: [n; 6], holds: Holds::Now }
    }

    #[test]
    fn a_neighbour_is_asked_for_once_and_serves_all_behind_it() {
        let mut lab = Lab::new(&[(2, None), (3, Some(9)), (4, Some(9))]);
        lab.ask(2);
        lab.ask(3);
        lab.ask(4);
        lab.ask(3);
        assert_eq!(lab.asked(), [ip(2), ip(9)]);
        assert_eq!((lab.hop(2), lab.hop(3)), (None, None));
        lab.hear(9, Reach::Asked);
        lab.hear(9, at(9));
        assert_eq!(
            (lab.hop(2), lab.hop(3), lab.hop(4)),
            (None, Some(Hop::At([9; 6])), Some(Hop::At([9; 6])))
        );
        // It moves.
        lab.hear(9, at(8));
        assert_eq!((lab.hop(3), lab.hop(4)), (Some(Hop::At([8; 6])), Some(Hop::At([8; 6]))));
        // News of others mean nothing.
        lab.hear(77, at(7));
        assert!(lab.resolver.take_change().is_none());
    }

    #[test]
    fn who_is_known_already_is_not_asked_for() {
        let mut lab = Lab::new(&[(2, None), (3, None)]);
        lab.hear(2, at(2));
        lab.hear(3, Reach::At { mac: [3; 6], holds: Holds::Perhaps });
        lab.ask(2);
        assert_eq!((lab.hop(2), lab.asked()), (Some(Hop::At([2; 6])), Vec::new()));
        // Used as it is, and confirmed.
        lab.ask(3);
        assert_eq!((lab.hop(3), lab.asked()), (Some(Hop::At([3; 6])), vec![ip(3)]));
    }

    #[test]
    fn who_does_not_answer_is_asked_again_more_and_more_rarely() {
        let mut lab = Lab::new(&[(2, None)]);
        lab.ask(2);
        lab.hear(2, Reach::Failed);
        assert_eq!(lab.hop(2), Some(Hop::Unresolved));
        let mut tries = Vec::new();
        lab.asked();
        let begin = lab.now;
        while lab.now - begin < Duration::from_secs(180) {
            lab.later(Duration::from_millis(500));
            lab.hop(2);
            if !lab.asked().is_empty() {
                tries.push((lab.now - begin).as_secs());
                lab.hear(2, Reach::Asked);
                lab.later(Duration::from_secs(3));
                lab.hear(2, Reach::Failed);
            }
        }
        let gaps: Vec<_> = tries.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(tries[0] <= 1 && gaps.is_sorted() && gaps.len() >= 6, "{tries:?}");
        assert!(*gaps.last().unwrap() >= 30, "{tries:?}");
        lab.hear(2, at(2));
        assert_eq!(lab.hop(2), Some(Hop::At([2; 6])));
    }

    #[test]
    fn a_kernel_that_refuses_or_says_nothing_is_no_answer() {
        let mut lab = Lab::new(&[(2, None), (3, None)]);
        lab.ask(2);
        lab.later(ANSWER);
        assert_eq!(lab.hop(2), Some(Hop::Unresolved));
        lab.kernel.refuses = true;
        lab.ask(3);
        assert_eq!(lab.hop(3), Some(Hop::Unresolved));
    }

    #[test]
    fn routes_come_go_and_lead_elsewhere() {
        let mut lab = Lab::new(&[(3, Some(9))]);
        lab.ask(2);
        lab.ask(3);
        lab.hear(9, at(9));
        assert_eq!((lab.hop(2), lab.hop(3)), (Some(Hop::NoRoute), Some(Hop::At([9; 6]))));
        lab.kernel.routes = [(ip(2), None), (ip(3), Some(ip(8)))].into();
        lab.resolver.lead_again(&mut lab.kernel, lab.now);
        assert_eq!((lab.hop(2), lab.hop(3)), (None, None));
        lab.hear(2, at(2));
        lab.hear(8, at(8));
        assert_eq!((lab.hop(2), lab.hop(3)), (Some(Hop::At([2; 6])), Some(Hop::At([8; 6]))));
        // The former router is nobody's any more.
        lab.hear(9, at(7));
        assert!(lab.resolver.take_change().is_none());
        lab.kernel.routes.clear();
        lab.resolver.lead_again(&mut lab.kernel, lab.now);
        assert_eq!(lab.hop(3), Some(Hop::NoRoute));
    }

    #[test]
    fn what_is_in_use_is_confirmed_and_what_is_not_is_forgotten() {
        let mut lab = Lab::new(&[(2, None), (3, None)]);
        for n in [2, 3] {
            lab.ask(n);
            lab.hear(n, at(n));
            lab.hop(n);
        }
        lab.asked();
        for _ in 0..=IDLE_ROUNDS {
            lab.later(CONFIRM);
            assert_eq!(lab.hop(2), Some(Hop::At([2; 6])));
            assert!(lab.asked().contains(&ip(2)));
        }
        assert!(lab.resolver.knows(ip(2)) && !lab.resolver.knows(ip(3)));
        assert_eq!(lab.hop(3), None);
        assert!(lab.resolver.due() > lab.now);
    }

    #[test]
    fn a_neighbour_that_somebody_deletes_is_asked_for_anew() {
        let mut lab = Lab::new(&[(2, None), (3, None)]);
        for n in [2, 3] {
            lab.ask(n);
            lab.hear(n, at(n));
        }
        lab.asked();
        lab.hear(2, Reach::Unknown);
        assert_eq!((lab.hop(2), lab.asked()), (None, vec![ip(2)]));
        // After news were lost, the whole table says what is gone.
        let all = [Neighbour { device: 1, addr: ip(2), state: at(5) }];
        lab.resolver.hear_all(&all, &mut lab.kernel, lab.now);
        assert_eq!((lab.hop(2), lab.hop(3)), (Some(Hop::At([5; 6])), None));
        assert_eq!(lab.asked(), [ip(3)]);
    }

    #[test]
    fn a_neighbour_that_was_entered_for_good_is_left_alone() {
        let mut lab = Lab::new(&[(2, None), (3, None)]);
        lab.ask(2);
        lab.ask(3);
        lab.hear(2, Reach::At { mac: [2; 6], holds: Holds::Always });
        lab.hear(3, at(3));
        lab.asked();
        assert_eq!((lab.hop(2), lab.hop(3)), (Some(Hop::At([2; 6])), Some(Hop::At([3; 6]))));
        lab.later(CONFIRM);
        assert_eq!(lab.asked(), [ip(3)], "the other one is confirmed");
    }
}
