//! The daemon: whether it answers, what it warns of, who may talk to it, and of which version it is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use vswitch_api::client::SOCKET_NAME;
use vswitch_api::types::Warning;
use vswitch_api::{ApiError, Code};

use super::facts::{Facts, Live};
use super::finding::{Area, Finding, Fix, Level};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    match &facts.daemon {
        None => {
            let message = "vswitchd was not asked: a file is judged".to_owned();
            vec![Finding::new(Area::Daemon, Level::Skipped, "daemon", message)]
        }
        Some(Err(error)) => vec![silent(facts, error)],
        Some(Ok(live)) => {
            let mut found: Vec<_> = live.status.warnings.iter().map(warned).collect();
            found.extend(version(live));
            found.extend(socket(facts));
            if found.is_empty() {
                let status = &live.status;
                let message = format!("vswitchd {} answers and warns of nothing", status.version);
                let seen = format!("revision {}, up {} s", status.revision, status.uptime);
                found.push(Finding::new(Area::Daemon, Level::Ok, "daemon", message).seen(seen));
            }
            found
        }
    }
}

fn silent(facts: &Facts, error: &ApiError) -> Finding {
    let id = match error.code {
        Code::NoPermission => "daemon-permission",
        Code::BadReply => "daemon-version",
        _ => "daemon-silent",
    };
    let process = facts.daemon_process();
    let seen = process.map_or_else(
        || "no process is a vswitchd of this run directory".to_owned(),
        |process| format!("process {} is a vswitchd of this run directory", process.pid),
    );
    let found = Finding::new(Area::Daemon, Level::Warn, id, error.message.clone()).seen(seen);
    match &error.hint {
        Some(hint) => found.fix(Fix::advice(hint)),
        None => found,
    }
}

fn warned(warning: &Warning) -> Finding {
    let Warning { subject, message, hint } = warning;
    let found = Finding::new(Area::Daemon, Level::Warn, "daemon-warning", message.clone());
    let found = found.of(subject).seen("vswitch-ctl status");
    match hint {
        Some(hint) => found.fix(Fix::advice(hint)),
        None => found,
    }
}

fn version(live: &Live) -> Option<Finding> {
    let (own, theirs) = (env!("CARGO_PKG_VERSION"), &live.status.version);
    (own != theirs).then(|| {
        let message = format!("vswitchd is {theirs}, and vswitch-ctl is {own}");
        let hint = "after an upgrade: systemctl restart vswitchd; else look for a second \
                    installation: command -v -a vswitch-ctl vswitchd";
        Finding::new(Area::Daemon, Level::Warn, "daemon-version", message)
            .seen("vswitch-ctl version")
            .fix(Fix::advice(hint))
    })
}

/// Who may write to the socket may change the switch.
fn socket(facts: &Facts) -> Option<Finding> {
    let path = facts.run_dir.join(SOCKET_NAME);
    let meta = fs::metadata(facts.root.path(&path)).ok()?;
    let mode = meta.permissions().mode() & 0o777;
    let seen = format!("{} has mode {mode:04o}, group {}", path.display(), meta.gid());
    if mode & 0o006 != 0 {
        let message = "everybody on this machine may change the switch".to_owned();
        let path = path.display().to_string();
        let found = Finding::new(Area::Daemon, Level::Error, "socket-open", message).seen(seen);
        return Some(found.fix(Fix::run(&["chmod", "0660", &path])));
    }
    let groups = facts.root.read("/etc/group")?;
    let exists = groups.lines().any(|line| line.starts_with("vswitch:"));
    (!exists).then(|| {
        let message = "there is no group `vswitch`: only root may use the API".to_owned();
        let command = "groupadd --system vswitch && systemctl restart vswitchd";
        Finding::new(Area::Daemon, Level::Note, "socket-group", message)
            .seen(seen)
            .fix(Fix::advice(command))
    })
}
