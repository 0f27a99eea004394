//! `completion` and `man`: made from the command table, the key table and the drop reasons.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use switch_core::DropReason;
use vswitch_api::{ApiError, Code, config};

use crate::cli::Cli;
use crate::failure::{Failure, VerbDone};
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The page to print: vswitch-ctl, vswitch-ctl-NOUN, vswitch.toml or vswitch-drops
    #[arg(default_value = "vswitch-ctl", conflicts_with = "dir")]
    page: String,
    /// Write all pages into this directory instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completion(output: &Output, shell: clap_complete::Shell) -> VerbDone {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vswitch-ctl", &mut script);
    output.text(&String::from_utf8_lossy(&script))?;
    Ok(None)
}

pub(crate) fn man(output: &Output, args: &ManArgs) -> VerbDone {
    let pages = pages()?;
    let Some(dir) = &args.dir else {
        let page = pages.iter().find(|page| page.name == args.page);
        let page = page.ok_or_else(|| {
            let names: Vec<_> = pages.iter().map(|page| page.name.as_str()).collect();
            let error = ApiError::new(Code::Usage, format!("there is no page {:?}", args.page));
            error.with_hint(format!("there are {}", names.join(", ")))
        })?;
        output.text(&page.roff)?;
        return Ok(None);
    };
    let failed = |error: std::io::Error| {
        let message = format!("cannot write the manual pages to {}: {error}", dir.display());
        Failure::from(ApiError::new(Code::Local, message))
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    for page in &pages {
        let file = dir.join(format!("{}.{}", page.name, page.section));
        std::fs::write(file, &page.roff).map_err(failed)?;
    }
    let count = pages.len();
    output.text(&format!("{count} manual pages written to {}\n", dir.display()))?;
    Ok(None)
}

struct Page {
    name: String,
    section: u8,
    roff: String,
}

impl Page {
    fn new(name: String, section: u8, roff: &[u8]) -> Self {
        Self { name, section, roff: String::from_utf8_lossy(roff).into_owned() }
    }
}

fn pages() -> Result<Vec<Page>, Failure> {
    let mut root = Cli::command();
    root.build();
    let mut out = Vec::new();
    Man::new(root.clone()).section("1").render(&mut out)?;
    let mut pages = vec![Page::new("vswitch-ctl".into(), 1, &out)];
    for noun in root.get_subcommands() {
        let name = format!("vswitch-ctl-{}", noun.get_name());
        let man = Man::new(without_globals(noun)).title(name.clone()).section("1");
        let mut out = Vec::new();
        man.render_title(&mut out)?;
        man.render_name_section(&mut out)?;
        man.render_synopsis_section(&mut out)?;
        if noun.get_arguments().any(|arg| !arg.is_global_set()) {
            man.render_options_section(&mut out)?;
        }
        // Verbs are sections of their noun's page: one page a noun is what people look for.
        for verb in noun.get_subcommands() {
            write!(out, "{}", section("", verb)?)?;
            for inner in verb.get_subcommands() {
                write!(out, "{}", section(&format!("{} ", verb.get_name()), inner)?)?;
            }
        }
        let also = "\\fBvswitch\\-ctl\\fR(1) for the options of every command and the exit codes";
        write!(out, ".SH SEE ALSO\n{also}\n")?;
        pages.push(Page::new(name, 1, &out));
    }
    pages.push(Page { name: "vswitch.toml".into(), section: 5, roff: config::manual() });
    pages.push(Page { name: "vswitch-drops".into(), section: 7, roff: drops() });
    Ok(pages)
}

/// What every command has is on the main page.
fn without_globals(command: &Command) -> Command {
    command.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg })
}

/// The section of one verb; `before` is the verb it belongs to, if it does.
fn section(before: &str, verb: &Command) -> Result<String, Failure> {
    let mut options = Vec::new();
    Man::new(without_globals(verb)).render_options_section(&mut options)?;
    let options = String::from_utf8_lossy(&options).replacen(".SH OPTIONS\n", "", 1);
    let synopsis = verb.clone().render_usage().to_string();
    let synopsis = synopsis.trim_start_matches("Usage: ").replace('-', "\\-");
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let head = format!("{before}{}", verb.get_name()).to_uppercase();
    Ok(format!(".SH {head}\n\\fB{synopsis}\\fR\n.PP\n{about}\n{options}"))
}

/// vswitch-drops(7).
fn drops() -> String {
    let mut out = String::from(
        ".TH vswitch\\-drops 7\n.SH NAME\nvswitch\\-drops \\- why vswitchd drops frames\n\
         .SH DESCRIPTION\nEvery frame that is not sent is counted for one of these reasons, on the \
         port it came in on (in) or on the port it was to leave by (out). \
         \\fBvswitch\\-ctl drops show\\fR shows the counts.\n.SH REASONS\n",
    );
    for reason in DropReason::ALL {
        let side = match reason.side() {
            switch_core::drop::Side::In => "in",
            switch_core::drop::Side::Out => "out",
        };
        let text = |text: &str| text.replace('\\', "\\e").replace('-', "\\-");
        let (name, cause, cure) = (text(reason.name()), text(reason.cause()), text(reason.cure()));
        let _ = writeln!(out, ".TP\n\\fB{name}\\fR ({side})\n{cause}\n{cure}");
    }
    out.push_str(".SH SEE ALSO\n\\fBvswitch\\-ctl\\fR(1), \\fBvswitch.toml\\fR(5)\n");
    out
}
