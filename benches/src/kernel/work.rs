//! What is measured of a scene.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vswitch_e2e::iperf3;

use crate::pairs::median;

use super::scene::Scene;
use super::{END_POINTS, flows, udp};

/// Echo requests in each measurement, one a millisecond.
const PINGS: usize = 2500;
/// An idle daemon is watched so long, whatever the measured time of other work.
const IDLE: Duration = Duration::from_secs(20);

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// iperf3 over TCP with so many streams.
    Tcp(u32),
    /// As many datagrams of 64 bytes as a stack sends.
    Udp,
    /// An echo request every millisecond.
    Ping,
    /// So many TCP connections, by what they cost the switch.
    Cost(usize),
    /// Nothing.
    Idle,
}

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Digits after the point in tables.
    pub digits: usize,
    /// Whether less is better.
    pub less: bool,
}

const fn metric(name: &'static str, unit: &'static str, digits: usize, less: bool) -> Metric {
    Metric { name, unit, digits, less }
}

/// What one measurement gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// By [`Work::metrics`].
    pub values: Vec<f64>,
    /// CPU that the switch used, 1 is one CPU; `None` for the kernel.
    pub cpu: Option<f64>,
}

impl Work {
    /// What it gives.
    pub const fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Tcp(_) => const { &[metric("throughput", "Gbit/s", 2, false)] },
            Self::Udp => const { &[metric("received", "thousand datagrams/s", 0, false)] },
            Self::Ping => {
                const { &[metric("median", "us", 0, true), metric("p99", "us", 0, true)] }
            }
            Self::Cost(_) => const { &[metric("cost", "CPU s/GB", 3, true)] },
            Self::Idle => const { &[metric("idle", "% of a CPU", 2, true)] },
        }
    }

    /// Readies a scene for it.
    ///
    /// # Errors
    /// The scene cannot do it.
    pub fn prepare(self, scene: &mut Scene) -> Result<()> {
        match self {
            Self::Tcp(_) => scene.serve(),
            Self::Udp => scene.cut_before_the_device(),
            _ => Ok(()),
        }
    }

    /// Has the scene do it once, so that addresses are learned and clocks are up.
    ///
    /// # Errors
    /// As [`Work::measure`].
    pub fn warm(self, scene: &Scene) -> Result<()> {
        match self {
            Self::Idle => Ok(()),
            _ => self.measure(scene, Duration::from_secs(1)).map(drop),
        }
    }

    /// Measures a scene for about `time`.
    ///
    /// # Errors
    /// Something fails on the way.
    pub fn measure(self, scene: &Scene, time: Duration) -> Result<Reading> {
        let (start, before) = (Instant::now(), scene.cpu_time()?);
        let mut window = None;
        let mut during = || {
            let start = (Instant::now(), scene.cpu_time());
            sleep(time);
            window = Some((start.0.elapsed(), start.1, scene.cpu_time()));
        };
        let values = match self {
            Self::Tcp(streams) => vec![tcp(scene, streams, time)?],
            Self::Udp => {
                let (from, to) = scene.stacks()?;
                let rate = udp::blast(from, to, scene.address()?, &mut during)?;
                vec![rate / 1e3]
            }
            Self::Ping => ping(scene)?,
            Self::Cost(count) => {
                let (from, to) = scene.stacks()?;
                vec![flows::run(from, to, &scene.addresses, count, &mut during)? as f64 / 1e9]
            }
            Self::Idle => {
                sleep(IDLE);
                Vec::new()
            }
        };
        let (took, before, after) = match window {
            Some((took, before, after)) => (took, before?, after?),
            None => (start.elapsed(), before, scene.cpu_time()?),
        };
        let used = before.zip(after).map(|(before, after)| (after - before).as_secs_f64());
        let cpu = used.map(|used| used / took.as_secs_f64());
        let values = match self {
            Self::Cost(_) => values.iter().map(|gb| used.unwrap_or(f64::NAN) / gb).collect(),
            Self::Idle => vec![100.0 * cpu.unwrap_or(f64::NAN)],
            _ => values,
        };
        Ok(Reading { values, cpu })
    }
}

/// Gbit/s to the far stack.
fn tcp(scene: &Scene, streams: u32, time: Duration) -> Result<f64> {
    let secs = time.as_secs().max(1);
    let args = format!("-A {END_POINTS},{END_POINTS} -P {streams} -t {secs}");
    Ok(iperf3(scene.client(), scene.address()?, &args)?.bits_per_second / 1e9)
}

/// Median and 99th percentile of the round-trip times in microseconds.
fn ping(scene: &Scene) -> Result<Vec<f64>> {
    let command =
        format!("taskset -c {END_POINTS} ping -n -i 0.001 -w 15 -c {PINGS} {}", scene.address()?);
    let printed = scene.client().sh(&command)?.stdout;
    let mut times = round_trips(&printed);
    ensure!(times.len() > PINGS / 2, "only {} of {PINGS} answers came", times.len());
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).copied().context("no answers")?;
    Ok(vec![median(&times), p99])
}

/// The times of "… ttl=64 time=0.052 ms" in microseconds.
fn round_trips(printed: &str) -> Vec<f64> {
    let time = |line: &str| line.split_once("time=")?.1.split_once(" ms")?.0.parse::<f64>().ok();
    printed.lines().filter_map(time).map(|ms| ms * 1e3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_round_trips() {
        let printed = "PING 192.0.2.2 (192.0.2.2) 56(84) bytes of data.\n\
                       64 bytes from 192.0.2.2: icmp_seq=1 ttl=64 time=0.250 ms\n\
                       64 bytes from 192.0.2.2: icmp_seq=2 ttl=64 time=1.5 ms\n\n\
                       2 packets transmitted, 2 received, 0% packet loss, time 1ms\n";
        assert_eq!(round_trips(printed), [250.0, 1500.0]);
    }
}
