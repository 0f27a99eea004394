//! What these tests share: stations, paced traffic that counts what is lost, and a look at the
//! daemon's books and at what it holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use vswitch_e2e::accounting::Accounting;
use vswitch_e2e::raw::mac;
use vswitch_e2e::{Daemon, Host, Netns, device_counter, ping, run, until, until_ok};

/// Patience with a busy machine; nothing here is expected to take as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The address of the station `n` as text.
pub(crate) fn mac_text(address: [u8; 6]) -> String {
    address.map(|b| format!("{b:02x}")).join(":")
}

/// A Linux stack behind the `tap` port `sN`, with the address 192.0.2.N.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) netns: Netns,
    pub(crate) n: u8,
}

impl Station {
    pub(crate) fn new(n: u8) -> Result<Self> {
        let netns = Netns::new(&format!("s{n}"))?;
        // Nothing but what a test sends: no router solicitations, no duplicate address detection.
        for which in ["all", "default"] {
            netns.sh(&format!("sysctl -qw net.ipv6.conf.{which}.disable_ipv6=1"))?.ok()?;
        }
        Ok(Self { netns, n })
    }

    /// The name of its port and device.
    pub(crate) fn name(&self) -> String {
        format!("s{}", self.n)
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        mac(0xff00 + u32::from(self.n))
    }

    pub(crate) fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.n)
    }

    /// Its port in the configuration file. Joined frames are one packet to the kernel, whose counters
    /// [`check_device`](Self::check_device) compares.
    pub(crate) fn port(&self) -> String {
        format!(
            "[[port]]\nname = \"{0}\"\ntype = \"tap\"\nbridge = \"br0\"\nmac = \"{1}\"\nnetns = \"{2}\"\n\
             gro = false\n",
            self.name(),
            mac_text(self.mac()),
            self.netns.name()
        )
    }

    /// Gives its device its address, and the addresses of `others`, so that nobody has to ask.
    pub(crate) fn plug(&self, others: &[&Station]) -> Result<()> {
        let device = self.name();
        self.netns.addr(&device, &format!("{}/24", self.ip()))?;
        for other in others.iter().filter(|other| other.n != self.n) {
            self.knows(&device, other.ip(), other.mac())?;
        }
        Ok(())
    }

    /// A neighbour that need not be asked for.
    pub(crate) fn knows(&self, device: &str, ip: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
        let mac = mac_text(mac);
        self.netns.ip(&format!("neigh replace {ip} lladdr {mac} dev {device} nud permanent"))?;
        Ok(())
    }

    pub(crate) fn reaches(&self, to: Ipv4Addr) -> Result<()> {
        let answer = ping(&self.netns, &to.to_string(), 2)?;
        ensure!(answer.received > 0, "{} does not reach {to}", self.name());
        Ok(())
    }

    /// That the switch's counters of the port are those of the kernel's device: what the one took
    /// the other gave.
    pub(crate) fn check_device(&self, books: &Accounting) -> Result<()> {
        let (device, counted) = (self.name(), books.port(&self.name())?);
        let kernel = |counter| device_counter(&self.netns, &device, counter);
        let taken = counted.rx_frames + counted.missed_rx;
        // The kernel counts what it drops for want of room in `tx_dropped` only.
        let given = kernel("tx_packets")? + kernel("tx_dropped")?;
        ensure!(taken == given, "{device} sent {given}, the switch took {taken}: {books:#?}");
        let (taken, given) = (kernel("rx_packets")?, counted.tx_frames);
        ensure!(taken == given, "the switch sent {given} on {device}, it took {taken}: {books:#?}");
        Ok(())
    }
}

/// A configuration with the bridge `br0`, a port for each station, and `more`.
pub(crate) fn config(stations: &[&Station], more: &str) -> String {
    let mut text = String::from("version = 1\n[[bridge]]\nname = \"br0\"\n");
    for station in stations {
        text += &station.port();
    }
    text + more
}

/// A daemon with a port for each station, all plugged in.
pub(crate) fn daemon(stations: &[&Station], more: &str) -> Result<Daemon> {
    let daemon = Daemon::start(&config(stations, more))?;
    for station in stations {
        station.plug(stations)?;
    }
    Ok(daemon)
}

/// Numbered datagrams from one station to another, until it is stopped.
#[derive(Debug)]
pub(crate) struct Flow {
    what: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<Result<()>>,
    receiver: JoinHandle<Result<BTreeMap<u64, u64>>>,
}

/// What became of a [`Flow`].
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    what: String,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) twice: u64,
    /// The first few that did not arrive.
    missing: Vec<u64>,
}

impl Heard {
    /// All arrived, each once.
    pub(crate) fn whole(&self) -> Result<()> {
        ensure!(
            self.sent > 0 && self.received == self.sent && self.twice == 0,
            "{}: of {} datagrams {} arrived, {} of them twice; missing {:?}…",
            self.what,
            self.sent,
            self.received,
            self.twice,
            self.missing
        );
        Ok(())
    }
}

/// How long a receiver waits for what is still under way.
const STRAGGLERS: Duration = Duration::from_secs(5);

impl Flow {
    /// Some 500 datagrams a second.
    pub(crate) fn paced(from: &Station, to: &Station) -> Result<Self> {
        let listener = to.netns.enter(|| Ok(UdpSocket::bind((to.ip(), 0))?))?;
        let port = listener.local_addr()?.port();
        Self::start(from, (to.ip(), port), Some(listener), Duration::from_millis(2))
    }

    /// Datagrams to any address, `pause` apart, and nobody who listens.
    pub(crate) fn unheard(from: &Station, to: Ipv4Addr, pause: Duration) -> Result<Self> {
        Self::start(from, (to, 9), None, pause)
    }

    fn start(
        from: &Station,
        to: (Ipv4Addr, u16),
        listener: Option<UdpSocket>,
        pause: Duration,
    ) -> Result<Self> {
        let what = format!("{} to {}", from.name(), to.0);
        let socket = from.netns.enter(|| Ok(UdpSocket::bind((from.ip(), 0))?))?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let sender = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || {
                while !stop.load(Ordering::Acquire) {
                    let number = sent.load(Ordering::Relaxed);
                    socket.send_to(&number.to_be_bytes(), to).context("cannot send")?;
                    sent.store(number + 1, Ordering::Release);
                    // No catching up after a pause: bursts would be another test.
                    std::thread::sleep(pause);
                }
                Ok(())
            }
        });
        let receiver = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || listener.map_or(Ok(BTreeMap::new()), |l| listen(&l, &stop, &sent))
        });
        Ok(Self { what, stop, sent, sender, receiver })
    }

    /// Ends it, and waits for what is still under way.
    pub(crate) fn stop(self) -> Result<Heard> {
        self.stop.store(true, Ordering::Release);
        let panicked = |_| anyhow!("a thread of the flow {} panicked", self.what);
        self.sender.join().map_err(panicked)??;
        let heard = self.receiver.join().map_err(panicked)??;
        let sent = self.sent.load(Ordering::Acquire);
        Ok(Heard {
            what: self.what.clone(),
            sent,
            received: heard.len() as u64,
            twice: heard.values().filter(|times| **times > 1).count() as u64,
            missing: (0..sent).filter(|n| !heard.contains_key(n)).take(10).collect(),
        })
    }
}

/// How often each number was heard.
fn listen(socket: &UdpSocket, stop: &AtomicBool, sent: &AtomicU64) -> Result<BTreeMap<u64, u64>> {
    // The receiver's own patience with a busy machine must not look like the switch's loss.
    setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &(16 << 20))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut heard = BTreeMap::new();
    let mut last = Instant::now();
    let mut buffer = [0; 64];
    loop {
        match socket.recv(&mut buffer) {
            Ok(8) => {
                let number = u64::from_be_bytes(buffer[..8].try_into()?);
                *heard.entry(number).or_insert(0) += 1;
                last = Instant::now();
            }
            Ok(len) => return Err(anyhow!("a datagram of {len} bytes")),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        let all = heard.len() as u64 >= sent.load(Ordering::Acquire);
        // The flag is seen before the last frame is counted, so wait a little in any case.
        if stop.load(Ordering::Acquire) && last.elapsed() > STRAGGLERS / if all { 50 } else { 1 } {
            return Ok(heard);
        }
    }
}

/// Two stations that talk both ways.
#[derive(Debug)]
pub(crate) struct Talk([Flow; 2]);

impl Talk {
    pub(crate) fn start(a: &Station, b: &Station) -> Result<Self> {
        // Both are learned before the first datagram, so that none is flooded.
        until_ok(LIMIT, "the first answer", || a.reaches(b.ip()))?;
        Ok(Self([Flow::paced(a, b)?, Flow::paced(b, a)?]))
    }

    /// Ends it; nothing may have been lost. How many datagrams that were.
    pub(crate) fn stop_whole(self, daemon: &Daemon) -> Result<u64> {
        let heard: Vec<Heard> = self.0.into_iter().map(Flow::stop).collect::<Result<_>>()?;
        if let Err(lost) = heard.iter().try_for_each(Heard::whole) {
            return Err(lost.context(format!("{:#?}\n{}", daemon.accounting()?, daemon.log())));
        }
        Ok(heard.iter().map(|h| h.sent).sum())
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) fds: usize,
    pub(crate) threads: u64,
    pub(crate) rss_kib: u64,
}

impl Usage {
    pub(crate) fn of(daemon: &Daemon) -> Result<Self> {
        let pid = daemon.pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let line =
                status.lines().find_map(|l| l.strip_prefix(name)).context("no such field")?;
            Ok(line.split_whitespace().next().context("an empty field")?.parse()?)
        };
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self { fds, threads: field("Threads:")?, rss_kib: field("VmRSS:")? })
    }

    /// Waits until the daemon holds no more than `self`, but for `more_kib` of memory.
    pub(crate) fn still_of(self, daemon: &Daemon, more_kib: u64) -> Result<Self> {
        // Connections and threads of the API end a moment after their last answer.
        until_ok(LIMIT, "the daemon to hold no more than before", || {
            let now = Self::of(daemon)?;
            let flat = now.fds <= self.fds && now.threads <= self.threads;
            ensure!(flat && now.rss_kib <= self.rss_kib + more_kib, "{self:?} became {now:?}");
            Ok(now)
        })
    }
}

/// Sends `bytes` as they are and reads until the other end hangs up: the status and the body.
pub(crate) fn raw_request(socket: &Path, bytes: &[u8]) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

/// A request with a JSON body. The status and the answer.
pub(crate) fn request(
    socket: &Path,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let bytes = format!(
        "{method} {path} HTTP/1.1\r\nHost: vswitch\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let (status, text) = raw_request(socket, bytes.as_bytes())?;
    let answer = serde_json::from_str(&text);
    Ok((status, answer.with_context(|| format!("{method} {path}: {status} {text:?}"))?))
}

/// Where a daemon's API is.
pub(crate) fn socket(daemon: &Daemon) -> PathBuf {
    daemon.run_dir().join("api.sock")
}

/// [`request`] to a daemon.
pub(crate) fn api(daemon: &Daemon, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    request(&socket(daemon), method, path, body)
}

/// A request that must be answered with `status`.
pub(crate) fn api_is(
    daemon: &Daemon,
    status: u16,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Value> {
    let (got, answer) = api(daemon, method, path, body)?;
    ensure!(got == status, "{method} {path} {body}: expected {status}, got {got} {answer}");
    Ok(answer)
}

/// What the API says of a port.
pub(crate) fn port(daemon: &Daemon, name: &str) -> Result<Value> {
    api_is(daemon, 200, "GET", &format!("/v1/ports/{name}"), &Value::Null)
}

/// Waits until a port is in a state. What the API says of it then.
pub(crate) fn wait_port(daemon: &Daemon, name: &str, state: &str) -> Result<Value> {
    until_ok(LIMIT, &format!("port {name} to be {state}"), || {
        let port = port(daemon, name)?;
        ensure!(port["state"] == state, "{port}");
        Ok(port)
    })
}

/// That each port's own books balance: `rx + copied + originated = forwarded + dropped coming in +
/// consumed` and `offered = sent + dropped going out`. Unlike the equation over all ports, this also
/// holds when other ports were deleted.
pub(crate) fn check_ledgers(daemon: &Daemon) -> Result<()> {
    let drops = api_is(daemon, 200, "GET", "/v1/drops", &Value::Null)?;
    let stats = api_is(daemon, 200, "GET", "/v1/stats", &Value::Null)?;
    let items = |list: &Value| list["items"].as_array().cloned().context("no items");
    let drops = items(&drops)?;
    let mut wrong = String::new();
    for port in items(&stats)? {
        let dropped = |side: &str| -> u64 {
            let of = drops.iter().filter(|d| d["port"] == port["name"] && d["side"] == side);
            of.filter_map(|d| d["frames"].as_u64()).sum()
        };
        let n = |group: &str, key: &str| port[group][key].as_u64().context("a counter is missing");
        let got = n("counters", "rx-frames")? + n("inside", "copied")? + n("inside", "originated")?;
        let gone = n("inside", "forwarded")? + dropped("in") + n("inside", "consumed")?;
        let (offered, left) =
            (n("inside", "offered")?, n("counters", "tx-frames")? + dropped("out"));
        if got != gone || offered != left {
            writeln!(wrong, "{got} in, {gone} gone; {offered} offered, {left} left: {port}")?;
        }
    }
    ensure!(wrong.is_empty(), "the books do not balance:\n{wrong}{drops:?}");
    Ok(())
}

/// Waits for quiet and checks all books. The counters.
pub(crate) fn books(daemon: &Daemon) -> Result<Accounting> {
    let books = daemon.settle()?;
    books.check()?;
    // Drops and counters come in two answers, between which a frame may arrive.
    until_ok(LIMIT, "balanced books", || check_ledgers(daemon))?;
    Ok(books)
}

/// Runs `ip ARGS` where the daemon runs.
pub(crate) fn host_ip(daemon: &Daemon, args: &str) -> Result<()> {
    let netns = daemon.netns().context("the daemon has no namespace of its own")?;
    run(&format!("ip -n {netns} {args}")).map(drop)
}

/// Waits until `vswitch-ctl status` exits with `code`.
pub(crate) fn wait_status(daemon: &Daemon, code: i32) -> Result<()> {
    until_ok(LIMIT, &format!("status to exit with {code}"), || {
        daemon.ctl("status")?.code_is(code).map(drop)
    })
}

/// Waits until `wanted` holds for the FDB's entries.
pub(crate) fn wait_fdb(
    daemon: &Daemon,
    what: &str,
    wanted: impl Fn(&[Value]) -> bool,
) -> Result<()> {
    until(LIMIT, what, || {
        let fdb = api_is(daemon, 200, "GET", "/v1/fdb", &Value::Null)?;
        let items = fdb["items"].as_array().context("no items")?;
        Ok(wanted(items).then_some(()))
    })
}

/// Numbers without a pattern (xorshift64*, Vigna 2016), from a seed that is printed.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.map_or(1, |d| d.as_nanos() as u64) | 1;
        eprintln!("seed {seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % end.max(1)
    }
}
