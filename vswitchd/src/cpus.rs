//! The machine's CPUs, as the kernel tells of them.

use std::fs;

/// How fast a CPU runs now, in MHz, or the first one for a worker that is on none in particular;
/// `None` where the kernel does not say.
pub fn mhz(cpu: Option<u16>) -> Option<f64> {
    mhz_in(&fs::read_to_string("/proc/cpuinfo").ok()?, cpu.unwrap_or(0))
}

fn mhz_in(cpuinfo: &str, cpu: u16) -> Option<f64> {
    let mut lines = cpuinfo.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        Some((key.trim(), value.trim()))
    });
    lines.find(|(key, value)| *key == "processor" && value.parse() == Ok(cpu))?;
    lines
        .take_while(|(key, _)| *key != "processor")
        .find(|(key, _)| *key == "cpu MHz")?
        .1
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_that_of_the_cpu() {
        let text = "processor\t: 0\ncpu MHz\t\t: 2500.5\n\nprocessor\t: 1\nflags\t\t: fpu\n\n\
                    processor\t: 2\ncpu MHz\t\t: 1200\n";
        assert_eq!(mhz_in(text, 0), Some(2500.5));
        assert_eq!(mhz_in(text, 1), None, "not the next one's");
        assert_eq!(mhz_in(text, 2), Some(1200.0));
        assert_eq!(mhz_in(text, 3), None);
    }
}
