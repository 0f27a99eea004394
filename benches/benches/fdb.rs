//! What the forwarding database costs a frame: one address learned and one looked up, beside two
//! bare hashbrown lookups of the same keys in the same order, which is the floor.
//!
//! `cargo bench -p vswitch-bench --bench fdb`. Times are per burst of 32 frames; criterion's
//! throughput line gives frames a second.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hashbrown::HashMap;
use switch_core::fdb::{Bucket, Dest, Fdb, FdbConfig, Flags, Hash, Key, Tick};
use switch_core::ids::{BridgeId, Domain, PortId};
use switch_core::wire::MacAddr;

const BURST: usize = 32;
/// Frames drawn before the sequence repeats: more than any cache holds of a million entries.
const FRAMES: usize = 1 << 20;

/// A small generator (xorshift64*, Vigna 2016), so that every run draws the same sequence.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The addresses of `count` stations, scattered as those of many vendors are.
fn stations(count: usize) -> Vec<u64> {
    let mut random = Random(0x1234_5678);
    (0..count).map(|_| random.next() >> 16 & 0xfcff_ffff_ffff | 0x0200_0000_0000).collect()
}

#[derive(Clone, Copy)]
enum Draw {
    Uniform,
    /// The n-th station in proportion to 1/n.
    Zipf,
}

impl Draw {
    fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }

    /// Source and destination of each frame.
    fn frames(self, stations: &[u64]) -> Vec<(u64, u64)> {
        let mut random = Random(0x9abc_def0);
        let mut sums = Vec::with_capacity(stations.len());
        let mut sum = 0.0;
        for n in 1..=stations.len() {
            sum += match self {
                Self::Uniform => 1.0,
                Self::Zipf => 1.0 / n as f64,
            };
            sums.push(sum);
        }
        let mut draw = || {
            let at = random.unit() * sum;
            stations[sums.partition_point(|&s| s < at).min(stations.len() - 1)]
        };
        (0..FRAMES).map(|_| (draw(), draw())).collect()
    }
}

fn key(mac: u64) -> Key {
    Key::new(MacAddr::from_u64(mac), Domain::new(BridgeId::new(1), 10))
}

fn dest(mac: u64) -> Dest {
    PortId::new((mac % 64) as u16).map_or(Dest::Remote(0), Dest::Port)
}

fn filled(stations: &[u64]) -> Fdb {
    // The size a daemon has by default, which a million entries fill.
    let fdb = Fdb::new(FdbConfig { max_per_bridge: 1 << 20, ..FdbConfig::default() });
    let mut left_out = 0;
    for &mac in stations {
        left_out += usize::from(fdb.set(key(mac), dest(mac), Flags::NONE, Tick(0)).is_err());
    }
    println!(
        "{} entries, {left_out} found no slot; {} bytes reserved, {:.2} for each of {}",
        fdb.len(),
        fdb.capacity_bytes(),
        fdb.capacity_bytes() as f64 / f64::from(FdbConfig::default().max_total),
        FdbConfig::default().max_total,
    );
    fdb
}

/// One burst as a worker handles it; each frame's source is known, at its port.
fn burst(fdb: &Fdb, frames: &[(u64, u64)], now: Tick) -> usize {
    let mut keys = [(key(0), key(0)); BURST];
    let mut hashes = [(Hash::default(), Hash::default()); BURST];
    for ((&(source, target), keys), hashes) in frames.iter().zip(&mut keys).zip(&mut hashes) {
        *keys = (key(source), key(target));
        *hashes = (fdb.hash(keys.0), fdb.hash(keys.1));
    }
    // A pass of its own, though it could be part of the one above: then fewer loads fit into what
    // the processor has in flight at once, and at a million entries a frame takes a third longer.
    let mut warmed = 0;
    for (source, target) in &hashes {
        for hash in [*source, *target] {
            warmed ^= fdb.front(hash).map_or(0, Bucket::touch);
            warmed ^= fdb.back(hash).map_or(0, Bucket::touch);
        }
    }
    black_box(warmed);
    let mut found = 0;
    for ((keys, hashes), frame) in keys.iter().zip(&hashes).zip(frames) {
        black_box(fdb.learn(keys.0, hashes.0, dest(frame.0), now));
        found += usize::from(fdb.lookup(keys.1, hashes.1).is_some());
    }
    found
}

fn floor(map: &HashMap<u64, u32>, frames: &[(u64, u64)]) -> usize {
    let mut found = 0;
    for (source, target) in frames {
        black_box(map.get(source));
        found += usize::from(map.get(target).is_some());
    }
    found
}

fn compare(c: &mut Criterion) {
    for count in [1, 1_000, 65_536, 1_000_000] {
        let stations = stations(count);
        let fdb = filled(&stations);
        let map: HashMap<u64, u32> = stations.iter().map(|&mac| (mac, mac as u32)).collect();
        for draw in [Draw::Uniform, Draw::Zipf] {
            let frames = draw.frames(&stations);
            let mut group = c.benchmark_group(format!("fdb/{}", draw.name()));
            group.throughput(Throughput::Elements(BURST as u64));
            let mut bursts = frames.chunks_exact(BURST).cycle();
            group.bench_function(BenchmarkId::new("learn+lookup", count), |b| {
                b.iter(|| bursts.next().map(|frames| burst(&fdb, frames, Tick(0))));
            });
            let mut bursts = frames.chunks_exact(BURST).cycle();
            group.bench_function(BenchmarkId::new("two hashbrown lookups", count), |b| {
                b.iter(|| bursts.next().map(|frames| floor(&map, frames)));
            });
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = compare
}
criterion_main!(benches);
