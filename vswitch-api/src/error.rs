//! Error codes: stable, and what each means for HTTP and for the exit code of the command line.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::{Problem, Problems};

/// Exit codes of `vswitch-ctl`.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// It ran, and the answer is "no" or "different".
    pub const NO: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The switch runs, and something is not as it should be.
    pub const DEGRADED: u8 = 3;
    /// There is no such thing.
    pub const NOT_FOUND: u8 = 4;
    /// The daemon cannot be reached.
    pub const UNREACHABLE: u8 = 5;
    /// The daemon refused it.
    pub const REFUSED: u8 = 6;
    /// The daemon accepted it and could not realise it.
    pub const NOT_REALISED: u8 = 7;
}

macro_rules! codes {
    ($($variant:ident $code:literal $status:literal $exit:ident, $doc:literal;)*) => {
        /// What went wrong. The codes never change their meaning.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema,
        )]
        pub enum Code {
            $(#[doc = $doc] #[serde(rename = $code)] $variant,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is shown, for example `E0201`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status it is sent with; 0 for what only the client can say.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The exit code of the command line.
            #[must_use]
            pub const fn exit(self) -> u8 {
                match self { $(Self::$variant => exit::$exit,)* }
            }

            /// What it means.
            #[must_use]
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

codes! {
    Usage "E0001" 0 USAGE, "The command line is wrong.";
    InvalidConfig "E0101" 422 REFUSED, "The configuration or object has problems, which are listed.";
    InvalidRequest "E0102" 400 REFUSED, "The request cannot be read.";
    TooLarge "E0103" 413 REFUSED, "The request is larger than the limit.";
    RequestTimeout "E0104" 408 REFUSED, "The request did not arrive in time.";
    NoSuchRoute "E0201" 404 NOT_FOUND, "The API has no such path.";
    NoSuchMethod "E0202" 405 REFUSED, "The path does not have this method.";
    NoSuchBridge "E0203" 404 NOT_FOUND, "There is no bridge of that name.";
    NoSuchPort "E0204" 404 NOT_FOUND, "There is no port of that name.";
    NoSuchVlan "E0205" 404 NOT_FOUND, "The port is not in that VLAN.";
    NoSuchEntry "E0206" 404 NOT_FOUND, "The FDB has no such entry.";
    NoSuchRevision "E0207" 404 NOT_FOUND, "There is no such revision.";
    NoSuchVtep "E0208" 404 NOT_FOUND, "There is no VTEP of that name.";
    NoSuchTunnel "E0209" 404 NOT_FOUND, "There is no tunnel of that name.";
    NoSuchMirror "E0210" 404 NOT_FOUND, "There is no mirror of that name.";
    Exists "E0301" 409 REFUSED, "There is an object of that name already.";
    InUse "E0302" 409 REFUSED, "Something else refers to the object.";
    OriginConflict "E0303" 409 REFUSED, "The object belongs to another origin.";
    ConfirmPending "E0304" 409 REFUSED, "A change waits for its confirmation.";
    NothingToConfirm "E0305" 409 REFUSED, "No change waits for a confirmation.";
    FdbFull "E0306" 409 REFUSED, "The FDB has no room for the entry.";
    NeedsRestart "E0307" 409 REFUSED, "The change takes effect only when vswitchd is started again.";
    Forbidden "E0401" 403 REFUSED, "The caller may not do that.";
    NotRealised "E0501" 202 NOT_REALISED, "The change was accepted and could not be realised.";
    Internal "E0901" 500 REFUSED, "The daemon failed; its log says more.";
    Busy "E0902" 503 REFUSED, "The daemon is starting, stopping or overloaded.";
    Unreachable "E0911" 0 UNREACHABLE, "The daemon does not answer on its socket.";
    NoPermission "E0912" 0 UNREACHABLE, "The daemon's socket may not be opened.";
    Timeout "E0913" 0 UNREACHABLE, "The daemon did not answer in time.";
    BadReply "E0914" 0 UNREACHABLE, "What answered is not a daemon of this version.";
    Local "E0921" 0 REFUSED, "A file could not be read or written.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error as the API sends it and the command line shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "kebab-case")]
pub struct ApiError {
    /// Which error it is.
    pub code: Code,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Each thing that is wrong, where there can be several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, problems: Vec::new() }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Problems> for ApiError {
    fn from(problems: Problems) -> Self {
        let message = match problems.0.as_slice() {
            [one] => one.to_string(),
            several => format!("the configuration has {} problems", several.len()),
        };
        Self { problems: problems.0, ..Self::new(Code::InvalidConfig, message) }
    }
}

/// The body of every reply that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_spelt_as_shown() {
        let shown: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(shown.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            let not_found = code.status() == 404;
            assert_eq!(not_found, code.exit() == exit::NOT_FOUND, "{code}");
        }
    }
}
