//! `status`.

use std::time::Duration;

use vswitch_api::client::Client;
use vswitch_api::error::exit;
use vswitch_api::types::StatusReply;

use crate::failure::VerbDone;
use crate::output::Output;

/// One screen; exits 3 if something is not as it should be.
pub(crate) fn show(client: &Client, output: &Output) -> VerbDone {
    let status: StatusReply = client.get("/v1/status")?;
    output.object(&status, || screen(&status, output))?;
    Ok(status.degraded.then_some(exit::DEGRADED))
}

fn screen(status: &StatusReply, output: &Output) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime));
    let ports = &status.ports;
    let mut lines = vec![
        format!("vswitchd {}, datapath {}, up {uptime}", status.version, status.datapath),
        format!("revision  {}", status.revision),
        format!("workers   {}", status.workers),
        format!("bridges   {}", status.bridges),
        format!(
            "ports     {} up, {} down, {} waiting, {} failed",
            ports.up, ports.down, ports.waiting, ports.failed
        ),
        format!("fdb       {} of {} entries", status.fdb.used, status.fdb.max),
        format!("drops     {:.1} a second", status.drops_per_second),
    ];
    for pool in &status.pools {
        let used = pool.buffers.saturating_sub(pool.free);
        let pages = if pool.hugepages { "hugepages" } else { "ordinary pages" };
        lines.push(format!(
            "memory    {}: {used} of {} buffers in use, {} MiB of {pages}",
            pool.name,
            pool.buffers,
            pool.bytes.div_ceil(1 << 20)
        ));
    }
    if let Some(seconds) = status.confirm_within {
        lines.push(format!("confirm   a change is rolled back in {seconds} s unless confirmed"));
    }
    for warning in &status.warnings {
        let mark = output.painted("warn");
        lines.push(format!("{mark}      {}: {}", warning.subject, warning.message));
        lines.extend(warning.hint.as_ref().map(|hint| format!("          hint: {hint}")));
    }
    lines.push(String::new());
    lines.join("\n")
}
