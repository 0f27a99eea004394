//! What can be done with every object of desired state: it is added, changed and deleted.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, patch, post};
use serde_json::Value;
use vswitch_api::config::Problems;

use super::reply::{Failure, Input, Path, changed};
use super::{App, Caller};
use crate::control::Mutation;

/// The changes of one kind of object.
#[derive(Clone, Copy)]
pub(super) struct Object {
    /// What a body asks to be added.
    pub(super) add: fn(&Value) -> Result<Mutation, Problems>,
    /// Other values for some keys of the object of that name.
    pub(super) set: fn(String, Value) -> Mutation,
    /// The object of that name goes.
    pub(super) remove: fn(String) -> Mutation,
}

impl Object {
    /// `POST` to the collection.
    pub(super) fn added(self) -> MethodRouter<App> {
        post(
            async move |State(app): State<App>,
                        Extension(caller): Extension<Caller>,
                        Input(body): Input<Value>|
                        -> Result<Response, Failure> {
                changed(app.mutate(caller, (self.add)(&body)?).await)
            },
        )
    }

    /// `PATCH` and `DELETE` of a member.
    pub(super) fn changed(self) -> MethodRouter<App> {
        let set = async move |State(app): State<App>,
                              Extension(caller): Extension<Caller>,
                              Path(name): Path<String>,
                              Input(keys): Input<Value>|
                    -> Result<Response, Failure> {
            changed(app.mutate(caller, (self.set)(name, keys)).await)
        };
        let delete = async move |State(app): State<App>,
                                 Extension(caller): Extension<Caller>,
                                 Path(name): Path<String>|
                    -> Result<Response, Failure> {
            changed(app.mutate(caller, (self.remove)(name)).await)
        };
        patch(set).delete(delete)
    }
}
