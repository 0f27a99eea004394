//! A switch with one uplink, whose far end is the wire.

use std::time::Instant;

use super::*;

/// A switch with one uplink and one VTEP, without what is above the datapath.
pub(crate) struct Rig {
    pub(crate) backend: DpdkBackend,
    pub(crate) workers: Vec<DpdkDatapath>,
    pub(crate) far: FarEnd,
    pub(crate) pool: Mempool,
    pub(crate) free: u32,
    pub(crate) mac: MacAddr,
    /// Per worker: of the uplink and of the VTEP.
    pub(crate) counters: Vec<[Arc<PortCounters>; 2]>,
    /// Packets that came in on the VTEP.
    pub(crate) received: Vec<Vec<u8>>,
}

pub(crate) const UPLINK: u16 = 3;
pub(crate) const VTEP: u16 = 7;

impl Rig {
    /// Without a VTEP yet.
    pub(crate) fn new(workers: u16) -> Self {
        let pool = common::pool(8192);
        let free = pool.available();
        let mut backend = DpdkBackend::new(common::eal(), pool);
        let datapaths = (0..workers).map(|n| backend.worker(WorkerId(n)).unwrap());
        let mut workers: Vec<DpdkDatapath> = datapaths.collect();
        let (far, attach) = FarEnd::new(4095);
        let mut open = backend.open_device(port(UPLINK), &attach, None).unwrap();
        backend.make_uplink(port(UPLINK), "wire", TAP, &mut open).unwrap();
        for (worker, queue) in workers.iter_mut().zip(open.queues) {
            assert!(worker.attach(port(UPLINK), queue).is_none());
        }
        let shown =
            std::fs::read_to_string(format!("/proc/self/task/{}/net/dev", nix::unistd::gettid()));
        assert!(shown.unwrap().contains(TAP));
        let mac = link_mac();
        let counters = workers.iter().map(|_| <[Arc<PortCounters>; 2]>::default()).collect();
        Self { backend, workers, far, pool, free, mac, counters, received: Vec::new() }
    }

    /// With a VTEP at an address that the TAP has.
    pub(crate) fn with_vtep(workers: u16) -> Self {
        let mut rig = Self::new(workers);
        ip(&format!("addr add 192.0.2.1/24 dev {TAP}"));
        rig.open(&spec(LOCAL)).unwrap();
        rig
    }

    pub(crate) fn open(&mut self, spec: &UnderlaySpec) -> Result<(), BackendError> {
        let open = self.backend.open_vtep(port(VTEP), spec)?;
        for (worker, queue) in self.workers.iter_mut().zip(open.queues) {
            assert!(worker.attach(port(VTEP), queue).is_none());
        }
        Ok(())
    }

    pub(crate) fn adjust(&mut self, spec: &UnderlaySpec) {
        let queues = self.backend.adjust_vtep(port(VTEP), spec).unwrap().expect("it can be");
        for (worker, queue) in self.workers.iter_mut().zip(queues) {
            assert!(worker.attach(port(VTEP), queue).is_some());
        }
    }

    /// Every worker looks once at everything.
    pub(crate) fn turn(&mut self) {
        for (worker, counters) in self.workers.iter_mut().zip(&self.counters) {
            let mut ready = Ready::default();
            worker.poll(Wait::No, &mut ready);
            let of = |id: PortId| &counters[usize::from(id == port(VTEP))];
            for id in &ready.handed_over {
                worker.tx_handed_over(*id, of(*id));
            }
            for id in &ready.rx {
                let mut batch = Batch::new();
                worker.rx_burst(*id, &mut batch, of(*id));
                assert!(batch.is_empty() || *id == port(VTEP), "the host's frames are used up");
                // What the core does with them.
                of(*id).consumed.add(batch.len() as u64);
                self.received.extend(batch.drain().map(|frame| content(&frame)));
            }
        }
    }

    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let end = Instant::now() + SOON;
        loop {
            self.turn();
            if let Some(found) = done(self) {
                return found;
            }
            assert!(Instant::now() < end, "{what}: {}", self.books());
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// A frame comes in by the wire.
    pub(crate) fn arrives(&mut self, frame: &[u8]) {
        self.far.to_switch.push(self.pool.frame(frame).unwrap()).unwrap();
    }

    /// The VTEP sends packets, by worker `n`.
    pub(crate) fn send(&mut self, n: usize, packets: &[Vec<u8>]) {
        for packets in packets.chunks(32) {
            let mut batch = Batch::new();
            self.counters[n][1].offered.add(packets.len() as u64);
            for packet in packets {
                batch.push(self.pool.frame(packet).unwrap()).unwrap();
            }
            self.workers[n].tx_burst(port(VTEP), &mut batch, &self.counters[n][1]);
            assert!(batch.is_empty());
        }
    }

    /// The next frame on the wire with this EtherType. What a kernel sends by itself is passed over.
    pub(crate) fn on_wire(&mut self, ethertype: u16, which: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.until("a frame on the wire", |rig| {
            let frames = std::iter::from_fn(|| rig.far.from_switch.pop());
            let mut frames = frames.map(|frame| content(&frame));
            frames.find(|frame| frame[12..14] == ethertype.to_be_bytes() && which(frame))
        })
    }

    /// The packets on the wire for `to`, without Ethernet, once there are `n`.
    pub(crate) fn packets_on_wire(&mut self, n: usize, header: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        self.until("packets on the wire", |rig| {
            while let Some(frame) = rig.far.from_switch.pop() {
                let bytes = content(&frame);
                // Of the kernel there may be others, but none of UDP.
                if bytes[12..14] == [8, 0] && bytes[23] == 17 {
                    assert_eq!(bytes[..14], *header);
                    found.push(bytes[14..].to_vec());
                }
            }
            (found.len() >= n).then_some(())
        });
        found
    }

    pub(crate) fn totals(&self) -> [switch_core::stats::PortTotals; 2] {
        let mut sums = <[switch_core::stats::PortTotals; 2]>::default();
        for counters in &self.counters {
            for (sum, counters) in sums.iter_mut().zip(counters) {
                sum.add(&counters.totals());
            }
        }
        sums
    }

    /// What was counted, in short.
    pub(crate) fn books(&self) -> String {
        let counters = self.counters.iter().flatten();
        counters.map(|counters| format!("{counters:?}\n")).collect()
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.iter().flatten().map(|counters| counters.dropped(reason)).sum()
    }

    /// Closes everything; the books must balance, and every mbuf be back.
    pub(crate) fn close(mut self) {
        for id in [VTEP, UPLINK].map(port) {
            let counters = &self.counters;
            let queues = self.workers.iter_mut().zip(counters).filter_map(|(worker, counters)| {
                worker.abandon(id, &counters[usize::from(id == port(VTEP))]);
                worker.detach(id)
            });
            let queues = queues.collect();
            self.backend.close_port(id, queues, true).unwrap();
        }
        for totals in self.totals() {
            let imbalance = (totals.imbalance_in(), totals.imbalance_out());
            assert_eq!(imbalance, (0, 0), "{}", self.books());
        }
        drop(self.workers);
        while self.far.from_switch.pop().is_some() {}
        while self.far.to_switch.pop().is_some() {}
        assert_eq!(self.pool.available(), self.free, "mbufs were leaked");
    }
}

fn link_mac() -> MacAddr {
    let shown = Command::new("ip").args(["-br", "link", "show", TAP]).output().unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    let bytes = shown.split_whitespace().nth(2).unwrap().split(':');
    let bytes: Vec<u8> = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    MacAddr::new(bytes.try_into().unwrap())
}
