//! QEMU guests: a machine with its own kernel, whose NICs are TAP devices that QEMU owns.
//!
//! Always emulated (`-accel tcg`): nested virtualisation is missing on most CI machines, and a
//! half-working one hangs.

mod cpio;
mod image;
mod package;
mod qemu;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;

pub use image::{Image, Platform, ensure_image};

use crate::command::{Host, Output, Process, run, until, until_ok};

/// A boot takes 2 to 4 s alone, and much longer beside a compiler.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What a NIC of a guest is connected to.
#[derive(Clone, Debug)]
pub enum Backend {
    /// A TAP device that QEMU makes and owns, of that name (at most 15 bytes).
    Tap(String),
    /// A vhost-user socket; the guest's memory is shared.
    VhostUser {
        /// Its path.
        socket: PathBuf,
        /// QEMU serves it, and waits for the switch; else it connects, and connects again.
        serve: bool,
        /// Pairs of queues.
        queues: u16,
    },
    /// A TAP device as of [`Backend::Tap`], behind an Intel 82576 (`igb`), which has virtual
    /// functions, in place of a virtio NIC. Needs [`Platform::SrIov`].
    Igb(String),
}

/// One NIC of a guest: virtio-net but for [`Backend::Igb`].
#[derive(Clone, Debug)]
pub struct Nic {
    /// What is behind it on the host.
    pub backend: Backend,
    /// MAC address in the guest, for example `52:54:00:00:00:01`.
    pub mac: String,
    /// Addresses with prefix lengths, IPv4 or IPv6, which the guest takes at boot.
    pub addresses: Vec<String>,
    /// MTU in the guest, bytes.
    pub mtu: u32,
    /// More properties of the device, for example `gso=off,guest_tso4=off`.
    pub properties: String,
}

impl Nic {
    /// A NIC on a TAP device, with all offloads and an MTU of 1500.
    pub fn new(tap: &str, mac: &str, addresses: &[&str]) -> Self {
        Self {
            backend: Backend::Tap(tap.to_owned()),
            mac: mac.to_owned(),
            addresses: addresses.iter().map(|&a| a.to_owned()).collect(),
            mtu: 1500,
            properties: String::new(),
        }
    }
}

impl Nic {
    /// The same on an Intel 82576, whose receive buffers take frames of 1522 bytes.
    pub fn igb(tap: &str, mac: &str, addresses: &[&str]) -> Self {
        Self { backend: Backend::Igb(tap.to_owned()), ..Self::new(tap, mac, addresses) }
    }

    /// The same on a vhost-user socket.
    pub fn vhost_user(
        socket: &Path,
        (serve, queues): (bool, u16),
        mac: &str,
        addresses: &[&str],
    ) -> Self {
        let socket = socket.to_owned();
        let backend = Backend::VhostUser { socket, serve, queues };
        Self { backend, ..Self::new("", mac, addresses) }
    }
}

/// What guest to boot.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    /// Its name in messages and of its directory.
    pub name: String,
    /// What kind of machine it is.
    pub platform: Platform,
    /// Its NICs: the first is `eth0` in the guest.
    pub nics: Vec<Nic>,
    /// The network namespace QEMU runs in, where the TAP devices appear; `None` is the current.
    pub netns: Option<String>,
    /// Memory, MiB.
    pub memory: u32,
    /// CPUs.
    pub cpus: u16,
    /// Memory in hugepages of 2 MiB, as far as a NIC shares it with a switch.
    pub hugepages: bool,
    /// Programs of this machine that the guest has too, in `/usr/bin`, with their libraries.
    pub programs: Vec<PathBuf>,
    /// Where the console log and the sockets go; `None` is a temporary directory.
    pub dir: Option<PathBuf>,
    /// The guest outlives this process (`cargo xtask demo --keep`).
    pub survives: bool,
}

impl GuestSpec {
    /// The TAP devices that QEMU makes for it.
    fn taps(&self) -> impl Iterator<Item = &str> {
        self.nics.iter().filter_map(|nic| match &nic.backend {
            Backend::Tap(tap) | Backend::Igb(tap) => Some(tap.as_str()),
            Backend::VhostUser { .. } => None,
        })
    }

    /// A guest with 256 MiB and these NICs, in the current network namespace.
    pub fn new(name: &str, nics: Vec<Nic>) -> Self {
        Self {
            name: name.to_owned(),
            platform: Platform::default(),
            nics,
            netns: None,
            memory: 256,
            cpus: 1,
            hugepages: false,
            programs: Vec::new(),
            dir: None,
            survives: false,
        }
    }
}

/// A running guest, killed when dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    process: Process,
    control: Mutex<Control>,
    console: PathBuf,
    survives: bool,
    _temp: Option<tempfile::TempDir>,
}

impl Guest {
    /// Boots a guest and waits until it answers.
    ///
    /// # Errors
    /// No image, QEMU does not start (a taken TAP name, no permission), or the guest does not
    /// answer; the message holds what QEMU or the guest's console said last.
    pub fn boot(spec: GuestSpec) -> Result<Self> {
        let mut guest = Self::start(spec)?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// Starts QEMU and returns as soon as its TAP devices exist; see [`Guest::wait_ready`].
    ///
    /// # Errors
    /// As [`Guest::boot`], but for the guest's answer.
    pub fn start(spec: GuestSpec) -> Result<Self> {
        let image = ensure_image(spec.platform, &|step| eprintln!("guest image: {step}"))?;
        let (dir, temp) = match &spec.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temp = tempfile::Builder::new().prefix("vst-guest-").tempdir()?;
                (temp.path().to_owned(), Some(temp))
            }
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let image = image::with_programs(image, &spec.programs, &dir)?;
        let console = dir.join(format!("{}.console", spec.name));
        let socket = dir.join(format!("{}.sock", spec.name));
        let errors = dir.join(format!("{}.qemu", spec.name));
        let err = fs::File::create(&errors).context("cannot create QEMU's log")?;
        let mut process = qemu::command(&spec, &image, &console, &socket)
            .spawn(Stdio::null(), Stdio::from(err))
            .context("is qemu-system-x86 installed?")?;

        // Either may be there first.
        let stream = until_ok(Duration::from_secs(20), "QEMU's TAP devices and socket", || {
            for tap in spec.taps() {
                let about =
                    spec.netns.iter().map(|netns| format!("-n {netns} ")).collect::<String>();
                run(&format!("ip {about}link show dev {tap}"))?;
            }
            UnixStream::connect(&socket).map_err(anyhow::Error::from)
        });
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                let _ = process.kill();
                let said = fs::read_to_string(&errors).unwrap_or_default();
                return Err(error.context(format!("QEMU did not start: {}", said.trim())));
            }
        };
        let control = Mutex::new(Control::new(stream)?);
        let survives = spec.survives;
        Ok(Self { name: spec.name, process, control, console, survives, _temp: temp })
    }

    /// Waits until the guest has booted and answers commands.
    ///
    /// # Errors
    /// It does not, in two minutes; the message holds the end of its console.
    pub fn wait_ready(&mut self) -> Result<()> {
        let control = self.control.get_mut().unwrap_or_else(PoisonError::into_inner);
        control.wait_ready().map_err(|error| {
            error.context(format!("guest {} does not boot\n{}", self.name, tail(&self.console)))
        })
    }

    /// Connects to a guest that another process started with [`GuestSpec::dir`] and
    /// [`GuestSpec::survives`], runs one command and hangs up.
    ///
    /// # Errors
    /// The guest is gone or does not answer.
    pub fn run_in(dir: &Path, name: &str, command: &str) -> Result<Output> {
        let socket = dir.join(format!("{name}.sock"));
        let stream = UnixStream::connect(&socket)
            .with_context(|| format!("cannot reach the guest on {}", socket.display()))?;
        let mut control = Control::new(stream)?;
        control.wait_ready()?;
        control.run(command, Duration::from_secs(60))
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Runs a shell command in the guest, for at most a minute.
    ///
    /// # Errors
    /// The guest does not answer. A failing command is not an error: see [`Output::ok`].
    pub fn run(&self, command: &str) -> Result<Output> {
        self.sh(command)
    }

    /// Stops the whole machine (SIGSTOP): it no longer reads its TAP devices.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Lets it run again (SIGCONT).
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Lets go of it: it goes on running when this process has ended. Needs
    /// [`GuestSpec::survives`] and [`GuestSpec::dir`].
    ///
    /// # Errors
    /// It was not started to survive.
    pub fn leave(self) -> Result<()> {
        ensure!(self.survives && self._temp.is_none(), "not started to survive");
        self.process.leave();
        Ok(())
    }

    /// What the guest's kernel printed.
    pub fn console(&self) -> String {
        fs::read(&self.console)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Host for Guest {
    fn label(&self) -> &str {
        &self.name
    }

    fn sh_for(&self, command: &str, limit: Duration) -> Result<Output> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let mut output = control
            .run(command, limit)
            .with_context(|| format!("guest {}: {command}\n{}", self.name, tail(&self.console)))?;
        output.command = format!("{}: {command}", self.name);
        Ok(output)
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    format!("last lines of its console:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
}

/// The host's end of the protocol that `init.sh` describes.
#[derive(Debug)]
struct Control {
    reader: BufReader<UnixStream>,
    sequence: u64,
}

impl Control {
    fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self { reader: BufReader::new(stream), sequence: 0 })
    }

    /// A line, without waiting longer than `limit`.
    fn line(&mut self, limit: Duration, what: &str) -> Result<String> {
        let mut line = Vec::new();
        until(limit, what, || {
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) => Err(anyhow!("QEMU hung up")),
                Ok(_) if line.ends_with(b"\n") => Ok(Some(())),
                // What was read before the time was over stays in `line`.
                Ok(_) => Ok(None),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
                Err(e) => Err(e.into()),
            }
        })?;
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    }

    /// Asks until there is an answer: what was sent before the guest listened may be lost.
    fn wait_ready(&mut self) -> Result<()> {
        until_ok(BOOT_LIMIT, "the guest to answer", || {
            self.send("true", Duration::from_secs(10))?;
            self.receive(Duration::from_secs(5)).map(drop)
        })
    }

    fn run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        self.send(command, limit)?;
        let mut output = self.receive(limit + Duration::from_secs(30))?;
        output.command = command.to_owned();
        // busybox's timeout reports the signal it sent; GNU's, used on the host, reports 124.
        if output.code == 143 {
            output.code = 124;
        }
        Ok(output)
    }

    fn send(&mut self, command: &str, limit: Duration) -> Result<()> {
        self.sequence += 1;
        let line = format!("{} {} {}\n", self.sequence, limit.as_secs(), base64(command));
        self.reader.get_mut().write_all(line.as_bytes()).context("QEMU hung up")
    }

    fn receive(&mut self, limit: Duration) -> Result<Output> {
        loop {
            let line = self.line(limit, "the guest's answer")?;
            let words: Vec<&str> = line.split(' ').collect();
            let [sequence, code, out, err] = words[..] else {
                bail!("the guest answered {line:?}");
            };
            let stdout = self.exactly(out.parse().context("a length")?)?;
            let stderr = self.exactly(err.parse().context("a length")?)?;
            // An answer to a command whose time was over before: not ours.
            if sequence == self.sequence.to_string() {
                let code = code.parse().context("an exit code")?;
                return Ok(Output { command: String::new(), code, stdout, stderr });
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Result<String> {
        let mut bytes = vec![0; length];
        let mut have = 0;
        until(Duration::from_secs(60), "the guest's output", || {
            while have < length {
                match self.reader.read(&mut bytes[have..]) {
                    Ok(0) => return Err(anyhow!("QEMU hung up")),
                    Ok(n) => have += n,
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(Some(()))
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// RFC 4648 base64, so that a command of any bytes is one word.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = (bits >> (18 - 6 * i) & 63) as usize;
            out.push(if i <= chunk.len() { DIGITS[digit] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_of_rfc_4648_section_10() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text), expected);
        }
    }
}
