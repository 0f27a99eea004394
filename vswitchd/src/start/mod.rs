//! From the command line to a running switch, and back.

mod dirs;
#[cfg(feature = "dpdk")]
mod dpdk;
mod error;
mod logging;

use std::fs;
use std::path::Path;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded, select, unbounded};
use datapath_tap::{TapBackend, TapOptions};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use switch_core::datapath::{Backend, Datapath};
use vswitch_api::Code;
use vswitch_api::config::{Datapath as DatapathName, Desired};

pub(crate) use error::StartError;
use vswitchd::api::{self, App};
use vswitchd::args::Args;
use vswitchd::control::{Action, Author, Control, ControlError, Controller, Mutation};
use vswitchd::cpus;
use vswitchd::events::Events;
use vswitchd::store::{Loaded, Store, load};
use vswitchd::workers::panic_text;

/// How long the control thread may take to close everything.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Runs the daemon to its end.
///
/// # Errors
/// It cannot start, or something fails that it cannot go on without.
pub(crate) fn run(args: Args) -> Result<(), StartError> {
    let file = read_config(&args.config)?;
    let _lock = dirs::lock_run_dir(&args.run_dir)?;
    let mut store = Store::open(&args.state_dir)?;
    let (desired, loaded) = load(&mut store, &file, args.config_wins)
        .map_err(|error| StartError::load(&args.config, error))?;
    logging::start(args.log.as_deref().unwrap_or(&desired.daemon.log), args.log_format)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        datapath = desired.daemon.datapath.name(),
        revision = store.revision(),
        "vswitchd starts"
    );
    match loaded {
        Loaded::Unchanged => tracing::info!("the configuration file is unchanged: using the store"),
        Loaded::Replaced(changed) => {
            tracing::info!(changed, file = %args.config.display(), "loaded the configuration file");
        }
    }
    raise_file_limit();
    if let Some(list) = &desired.daemon.cpus {
        cpus::check(list).map_err(|error| {
            StartError::new(Code::InvalidConfig, error.to_string()).with_hint(error.hint())
        })?;
    }
    match desired.daemon.datapath {
        DatapathName::Tap => {
            let options = TapOptions { run_dir: Some(args.run_dir.clone()), ..Default::default() };
            let backend = TapBackend::new(options);
            serve(&args, backend, store, desired)
        }
        #[cfg(feature = "dpdk")]
        DatapathName::Dpdk => {
            let backend = dpdk::backend(&args, &desired)?;
            serve(&args, backend, store, desired)
        }
        #[cfg(not(feature = "dpdk"))]
        DatapathName::Dpdk => Err(StartError::new(
            Code::InvalidConfig,
            "datapath = \"dpdk\" is not in this build of vswitchd",
        )
        .with_hint("set datapath = \"tap\" in [daemon]")),
    }
}

fn read_config(path: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(path).map_err(|cause| {
        let error = StartError::new(
            Code::Local,
            format!("read the configuration {}: {cause}", path.display()),
        );
        match cause.kind() {
            std::io::ErrorKind::NotFound => error.with_hint(format!(
                "an empty switch needs one line: echo 'version = 1' > {}",
                path.display()
            )),
            _ => error,
        }
    })
}

/// As many files as the system allows: each port takes several, each connection one.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::info!(%error, soft, "the limit of open files stays as it is");
    }
}

/// How the control thread ended.
type Ended = Result<(), String>;

fn serve<B>(args: &Args, backend: B, store: Store, desired: Desired) -> Result<(), StartError>
where
    B: Backend + 'static,
    B::Datapath: 'static,
    <B::Datapath as Datapath>::Queue: 'static,
{
    // Before any thread: what arrives from now on is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|cause| StartError::new(Code::Internal, format!("listen to signals: {cause}")))?;
    let (died, deaths) = unbounded();
    let events = Events::default();
    let metrics = desired.daemon.metrics;
    let (controller, control) = Controller::start(backend, store, desired, events.clone(), &died)?;
    let (ended, end) = bounded(1);
    let thread = std::thread::Builder::new()
        .name("vsw-control".to_owned())
        .spawn(move || run_control(controller, &ended))
        .map_err(|cause| StartError::new(Code::Internal, format!("start a thread: {cause}")))?;

    let app = App::new(control.clone(), events);
    let runtime = match start_api(args, app, metrics) {
        Ok(runtime) => runtime,
        Err(error) => {
            control.stop();
            let _ = thread.join();
            return Err(error);
        }
    };
    let (signalled, signal) = bounded(8);
    let signals_handle = signals.handle();
    let listener = std::thread::spawn(move || {
        for number in &mut signals {
            if signalled.send(number).is_err() {
                return;
            }
        }
    });
    notify(&[NotifyState::Ready]);
    tracing::info!(socket = %args.run_dir.join("api.sock").display(), "vswitchd is ready");

    let result = loop {
        select! {
            recv(signal) -> number => match number {
                Ok(SIGHUP) => reload(&args.config, &control),
                _ => break Ok(()),
            },
            recv(deaths) -> death => {
                let words = death.map_or_else(
                    |_| "all workers are gone".to_owned(),
                    |death| format!("worker {} panicked: {}", death.worker, death.message),
                );
                break Err(StartError::new(Code::Internal, words));
            },
            recv(end) -> how => break how
                .unwrap_or_else(|_| Err("the control thread is gone".to_owned()))
                .map_err(|words| StartError::new(Code::Internal, words)),
        }
    };
    signals_handle.close();
    let _ = listener.join();
    notify(&[NotifyState::Stopping]);
    if let Err(error) = result {
        // Nothing can be closed in order any more: the system closes it with the process.
        tracing::error!("{}", error.message);
        return Err(error);
    }
    tracing::info!("vswitchd stops");
    control.stop();
    let how = end.recv_timeout(STOP_WITHIN).unwrap_or_else(|_| Err("it does not end".to_owned()));
    runtime.shutdown_timeout(Duration::from_millis(100));
    let _ = fs::remove_file(args.run_dir.join("api.sock"));
    how.map_err(|words| StartError::new(Code::Internal, words))
}

fn run_control<B>(controller: Controller<B>, ended: &Sender<Ended>)
where
    B: Backend,
    B::Datapath: 'static,
    <B::Datapath as Datapath>::Queue: 'static,
{
    let run = std::panic::AssertUnwindSafe(|| controller.run());
    let result: Result<Result<(), ControlError>, _> = std::panic::catch_unwind(run);
    let _ = ended.send(match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("the control thread panicked: {}", panic_text(&*panic))),
    });
}

/// Makes the sockets and serves them in the background.
fn start_api(
    args: &Args,
    app: App,
    metrics: Option<std::net::SocketAddr>,
) -> Result<tokio::runtime::Runtime, StartError> {
    let socket = api::bind(&args.run_dir.join("api.sock"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("vsw-api")
        .enable_all()
        .build()
        .map_err(|cause| StartError::new(Code::Internal, format!("start the API: {cause}")))?;
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::from_std(socket)
            .map_err(|cause| StartError::new(Code::Internal, format!("serve the API: {cause}")))?;
        if let Some(address) = metrics {
            let tcp = tokio::net::TcpListener::bind(address).await.map_err(|cause| {
                StartError::new(Code::Internal, format!("serve metrics on {address}: {cause}"))
                    .with_hint(
                        "set metrics in [daemon] to an address that is free, or leave it out",
                    )
            })?;
            tokio::spawn(api::serve_tcp(tcp, api::metrics_router(app.clone())));
        }
        tokio::spawn(api::serve_unix(listener, api::router(app)));
        Ok::<(), StartError>(())
    })?;
    Ok(runtime)
}

/// Reads the configuration file again. What is wrong with it is logged, and nothing changes.
fn reload(path: &Path, control: &Control) {
    let reloading = NotifyState::monotonic_usec_now();
    if let Ok(now) = reloading {
        notify(&[NotifyState::Reloading, now]);
    }
    let result = fs::read(path).map_err(|cause| cause.to_string()).and_then(|file| {
        let author = Author("SIGHUP".to_owned());
        let mutation = Mutation::Reload(file);
        control.ask_blocking(|reply| Action::Mutate { author, mutation, reply }).map_err(|error| {
            match error.problems.as_slice() {
                [] => error.message,
                problems => {
                    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                    lines.join("; ")
                }
            }
        })
    });
    match result {
        Ok(reply) if reply.objects.is_empty() => tracing::info!("the configuration is unchanged"),
        Ok(reply) => {
            let changed = reply.objects.len();
            tracing::info!(changed, realised = reply.realised, "reloaded the configuration file");
        }
        Err(error) => {
            let file = path.display();
            tracing::error!(%file, "the configuration stays as it was: {error}");
        }
    }
    notify(&[NotifyState::Ready]);
}

/// Tells systemd, if it listens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}
