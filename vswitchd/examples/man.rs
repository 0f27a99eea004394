//! Prints vswitchd(8), made from the table of its options. The package's build runs it.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use clap::CommandFactory;
use clap_mangen::Man;
use vswitchd::args::Args;

/// What the options do not tell.
const MORE: &str = r#".SH SIGNALS
.TP
SIGTERM, SIGINT
Stop. TAP devices stay, with their addresses, unless their port says persist = false.
.TP
SIGHUP
Read the configuration file again.
.SH FILES
.TP
\fI/etc/vswitch/vswitch.toml\fR
The configuration of the packaged service; see \fBvswitch.toml\fR(5).
.TP
\fI/run/vswitch/api.sock\fR
The API: HTTP and JSON. Root and members of the group vswitch may use it.
.TP
\fI/var/lib/vswitch\fR
The desired state, which survives a crash and a reboot.
.SH SEE ALSO
\fBvswitch\-ctl\fR(1), \fBvswitch.toml\fR(5), \fBvswitch\-drops\fR(7)
"#;

fn main() -> io::Result<()> {
    let mut page = Vec::new();
    Man::new(Args::command()).section("8").manual("vswitch").render(&mut page)?;
    page.write_all(MORE.as_bytes())?;
    io::stdout().write_all(&page)
}
