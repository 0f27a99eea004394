//! What every change of desired state has in common, and what every stream has.

use std::ops::ControlFlow;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vswitch_api::client::Client;
use vswitch_api::error::exit;
use vswitch_api::types::{DropCount, MutationReply};
use vswitch_api::{ApiError, Code};

use crate::failure::{self, Failure, VerbDone};
use crate::output::Output;

/// What an error may be if it was asked to be none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerate(Option<Code>);

impl Tolerate {
    /// Every error counts.
    pub(crate) const NOTHING: Self = Self(None);

    /// This one is none if `flag` is set.
    pub(crate) const fn when(flag: bool, code: Code) -> Self {
        Self(if flag { Some(code) } else { None })
    }
}

/// Sends a change and tells what became of it.
pub(crate) fn change<B: Serialize>(
    client: &Client,
    output: &Output,
    method: &str,
    path: &str,
    body: Option<&B>,
    tolerate: Tolerate,
) -> VerbDone {
    match client.send::<B, MutationReply>(method, path, body) {
        Ok(reply) => tell(output, &reply.body),
        Err(error) if tolerate.0 == Some(error.code) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Prints what became of each object; what was not realised goes to standard error too.
pub(crate) fn tell(output: &Output, reply: &MutationReply) -> VerbDone {
    output.object(reply, || {
        let mut out = String::new();
        for object in &reply.objects {
            let (kind, action) = (object.object.name(), object.action.name());
            let name = if object.name.is_empty() { "" } else { " " };
            out.push_str(&format!("{kind}{name}{} {action}\n", object.name));
        }
        if reply.objects.is_empty() {
            out.push_str("nothing changed\n");
        }
        if let Some(seconds) = reply.confirm_within {
            out.push_str(&format!(
                "rolled back in {seconds} s unless confirmed: vswitch-ctl config confirm\n"
            ));
        }
        out
    })?;
    if reply.realised {
        return Ok(None);
    }
    for object in reply.objects.iter().filter(|object| !object.realised) {
        let reason = object.reason.as_deref().unwrap_or("the daemon's log says more");
        let (kind, action) = (object.object.name(), object.action.name());
        let message = format!("{kind} {} is {action}, but not realised: {reason}", object.name);
        let error =
            ApiError { hint: object.hint.clone(), ..ApiError::new(Code::NotRealised, message) };
        failure::tell(&error, output);
    }
    Ok(Some(exit::NOT_REALISED))
}

/// Drops in one cell: `tunnel-peer=3,tunnel-mtu=1`.
pub(crate) fn by_reason(drops: &[DropCount]) -> String {
    let drops = drops.iter().map(|drop| format!("{}={}", drop.reason, drop.frames));
    drops.collect::<Vec<_>>().join(",")
}

/// Prints a stream to its end. A failure to print ends it and is what comes back.
pub(crate) fn follow<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    mut print: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut printed = Ok(());
    client.lines(path, |item| {
        printed = print(item);
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    printed
}
