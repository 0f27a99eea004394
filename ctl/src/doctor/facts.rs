//! What the checks look at: a machine, what it is to do, and what its daemon says.

use std::path::{Path, PathBuf};

use switch_core::config::PortSpec;
use vswitch_api::ApiError;
use vswitch_api::client::Client;
use vswitch_api::config::{self, Datapath, Desired};
use vswitch_api::types::{
    ConfigReply, CpuStatus, DropRow, List, MtuReply, PortStatus, StatusReply,
};

use super::root::{Process, Root};

/// Where the package puts the configuration.
pub(super) const CONFIG_FILE: &str = "/etc/vswitch/vswitch.toml";

/// Everything that is judged.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) root: Root,
    pub(super) run_dir: PathBuf,
    /// What the daemon says; an error if it does not answer, nothing if it was not asked.
    pub(super) daemon: Option<Result<Box<Live>, ApiError>>,
    /// What the machine is judged for.
    pub(super) desired: Desired,
    /// Where that comes from.
    pub(super) source: String,
}

/// What a daemon says of itself.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) status: StatusReply,
    pub(super) ports: Vec<PortStatus>,
    pub(super) cpus: Vec<CpuStatus>,
    pub(super) mtu: MtuReply,
    pub(super) drops: Vec<DropRow>,
    pub(super) config: ConfigReply,
}

impl Live {
    pub(super) fn ask(client: &Client) -> Result<Box<Self>, ApiError> {
        let ports: List<_> = client.get("/v1/ports")?;
        let cpus: List<_> = client.get("/v1/cpu")?;
        let drops: List<_> = client.get("/v1/drops")?;
        Ok(Box::new(Self {
            status: client.get("/v1/status")?,
            ports: ports.items,
            cpus: cpus.items,
            mtu: client.get("/v1/mtu")?,
            drops: drops.items,
            config: client.get("/v1/config")?,
        }))
    }
}

impl Facts {
    /// For what the daemon was asked to do, or, if none answers, for what the file says that it is
    /// started with.
    pub(super) fn of_daemon(
        root: Root,
        run_dir: &Path,
        daemon: Result<Box<Live>, ApiError>,
    ) -> Self {
        let run_dir = run_dir.to_owned();
        let read = |toml: &str, source: &str| {
            config::from_toml(toml).map_or_else(
                |_| (Desired::default(), format!("an empty configuration: {source} is not valid")),
                |desired| (desired, source.to_owned()),
            )
        };
        let (desired, source) = match &daemon {
            Ok(live) => read(&live.config.toml, "the daemon's configuration"),
            Err(_) => match root.read(CONFIG_FILE) {
                Some(toml) => read(&toml, CONFIG_FILE),
                None => (Desired::default(), "an empty configuration".to_owned()),
            },
        };
        Self { root, run_dir, daemon: Some(daemon), desired, source }
    }

    /// For a configuration; no daemon is asked.
    pub(super) fn of_config(root: Root, run_dir: &Path, desired: Desired, file: &Path) -> Self {
        let source = file.display().to_string();
        Self { root, run_dir: run_dir.to_owned(), daemon: None, desired, source }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        self.daemon.as_ref()?.as_deref().ok()
    }

    pub(super) fn on_dpdk(&self) -> bool {
        self.desired.daemon.datapath == Datapath::Dpdk
    }

    /// The ports that `pick` makes something of.
    pub(super) fn ports<'a, T>(
        &'a self,
        pick: impl Fn(&'a PortSpec) -> Option<T> + 'a,
    ) -> impl Iterator<Item = (&'a str, T)> + 'a {
        let ports = self.desired.ports.iter();
        ports.filter_map(move |(name, spec)| Some((name.as_str(), pick(spec)?)))
    }

    /// The CPUs that workers are pinned to, or are to be.
    pub(super) fn worker_cpus(&self) -> Vec<u16> {
        let asked = || self.desired.daemon.cpus.as_ref().map(|list| list.cpus().to_vec());
        match self.live() {
            Some(live) => live.cpus.iter().filter_map(|worker| worker.cpu).collect(),
            None => asked().unwrap_or_default(),
        }
    }

    /// The process of the daemon whose run directory this is.
    pub(super) fn daemon_process(&self) -> Option<Process> {
        let run_dir = self.run_dir.as_os_str();
        let default = Path::new(vswitch_api::client::DEFAULT_RUN_DIR).as_os_str();
        self.root.processes(|name| name == "vswitchd").into_iter().find(|process| {
            let joined = process.args.iter().filter_map(|arg| arg.strip_prefix("--run-dir="));
            let theirs = process.after("--run-dir").chain(joined).next();
            theirs.map_or(run_dir == default, |theirs| run_dir == theirs)
        })
    }
}
