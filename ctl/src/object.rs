//! What can be done with every object: show, add, del and set.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};
use vswitch_api::Code;
use vswitch_api::client::{Client, path, query};
use vswitch_api::types::List;

use crate::failure::{Failure, VerbDone};
use crate::output::Output;
use crate::reply::{Tolerate, change};

/// A kind of objects.
pub(crate) struct Kind {
    /// The path of the collection below `/v1`.
    pub(crate) plural: &'static str,
    /// What the daemon answers if there is none of that name.
    pub(crate) missing: Code,
}

impl Kind {
    /// Those objects, or all that pass the filter.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        client: &Client,
        names: &[String],
        filter: &[(&str, Option<&str>)],
    ) -> Result<Vec<T>, Failure> {
        if names.is_empty() {
            let all = path(&["v1", self.plural]);
            return Ok(client.get::<List<_>>(&query(&all, filter))?.items);
        }
        let one = |name: &String| Ok(client.get(&path(&["v1", self.plural, name]))?);
        names.iter().map(one).collect()
    }

    /// Adds one with these keys.
    pub(crate) fn add(
        &self,
        client: &Client,
        output: &Output,
        name: &str,
        mut keys: Map<String, Json>,
        if_not_exists: bool,
    ) -> VerbDone {
        keys.insert("name".into(), json!(name));
        let tolerate = Tolerate::when(if_not_exists, Code::Exists);
        change(client, output, "POST", &path(&["v1", self.plural]), Some(&keys), tolerate)
    }

    /// Deletes one.
    pub(crate) fn del(
        &self,
        client: &Client,
        output: &Output,
        name: &str,
        if_exists: bool,
    ) -> VerbDone {
        let tolerate = Tolerate::when(if_exists, self.missing);
        let path = path(&["v1", self.plural, name]);
        change(client, output, "DELETE", &path, None::<&Json>, tolerate)
    }

    /// Changes these keys of one, and gives those in `unset` their defaults back.
    pub(crate) fn set(
        &self,
        client: &Client,
        output: &Output,
        name: &str,
        mut keys: Map<String, Json>,
        unset: &[String],
    ) -> VerbDone {
        keys.extend(unset.iter().map(|key| (key.clone(), Json::Null)));
        let path = path(&["v1", self.plural, name]);
        change(client, output, "PATCH", &path, Some(&keys), Tolerate::NOTHING)
    }
}
