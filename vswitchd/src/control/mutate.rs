//! Changes of desired state: checked as a whole, stored, and only then realised.

use std::time::{Duration, Instant};

use serde_json::Value as Json;
use switch_core::config::MirrorSpec;
use switch_core::datapath::Backend;
use switch_core::wire::vlan::VlanId;
use vswitch_api::config::{self, Desired, Problem, Problems, VlanDelError};
use vswitch_api::types::{
    Action as Done, EventLevel, MutationReply, ObjectKind, ObjectResult, Origin, VlanRequest,
};
use vswitch_api::{ApiError, Code};

use super::ports::Trouble;
use super::tunnels::vtep_of;
use super::{Author, Controller, Mutation, Queue};
use crate::store::{
    Commit, Misfit, ObjectId, Objects, Pending, StoreError, edited, specs, with_file,
};
use crate::workers::WorkerError;

/// Longest time a change may wait for its confirmation, seconds.
const CONFIRM_MOST: u64 = 86_400;

/// What a mutation comes to.
struct Plan {
    what: String,
    origin: Origin,
    objects: Objects,
    /// The object it is about, if it is about one: it is told of even if nothing changed.
    about: Option<ObjectId>,
    file: Option<Vec<u8>>,
    /// Seconds to confirm it.
    confirm: Option<u64>,
}

impl<B> Controller<B>
where
    B: Backend,
    B::Datapath: 'static,
    Queue<B>: 'static,
{
    /// Makes a change, or says why not. An `Ok(Err(…))` has changed nothing.
    ///
    /// # Errors
    /// A worker hangs.
    pub(super) fn mutate(
        &mut self,
        author: &Author,
        mutation: Mutation,
    ) -> Result<Result<MutationReply, ApiError>, WorkerError> {
        let settles = matches!(mutation, Mutation::Confirm | Mutation::Rollback(_));
        if self.store.pending().is_some() && !settles {
            let error = ApiError::new(Code::ConfirmPending, "a change waits for its confirmation");
            return Ok(Err(error.with_hint(
                "keep it with `vswitch-ctl config confirm`, or take it back with \
                 `vswitch-ctl config rollback`",
            )));
        }
        let planned = self.plan(mutation).and_then(|plan| {
            let specs = plan.objects.iter().map(|(id, object)| (id, &object.spec));
            let desired = crate::store::desired(specs)?;
            Ok((plan, desired))
        });
        match planned {
            Ok((plan, desired)) => self.execute(author, plan, desired),
            Err(error) => Ok(Err(error)),
        }
    }

    fn execute(
        &mut self,
        author: &Author,
        plan: Plan,
        desired: Desired,
    ) -> Result<Result<MutationReply, ApiError>, WorkerError> {
        let Plan { what, origin, objects, about, file, confirm } = plan;
        let pending = confirm.map(|_| Pending { back_to: self.store.revision() });
        let what = format!("{what} ({})", author.0);
        let commit = Commit { origin, what: what.clone(), objects, file: file.as_deref(), pending };
        let deltas = match self.store.commit(commit) {
            Ok(deltas) => deltas,
            Err(error) => return Ok(Err(internal(&error))),
        };
        self.confirm_by = confirm.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let revision = self.store.revision();
        if !deltas.is_empty() {
            let message = format!("revision {revision}: {what}");
            self.events.add(EventLevel::Info, "config-applied", "", &message);
        }
        self.reconcile(desired)?;
        let mut objects: Vec<ObjectResult> =
            deltas.iter().map(|delta| self.result(&delta.id, delta.action())).collect();
        if objects.is_empty()
            && let Some(id) = about
        {
            objects.push(self.result(&id, Done::Unchanged));
        }
        let realised = objects.iter().all(|object| object.realised);
        Ok(Ok(MutationReply { revision, realised, objects, confirm_within: confirm }))
    }

    /// What became of one object.
    fn result(&self, id: &ObjectId, action: Done) -> ObjectResult {
        let mut result = ObjectResult {
            object: id.kind,
            name: id.name.clone(),
            action,
            realised: true,
            reason: None,
            hint: None,
        };
        match id.kind {
            ObjectKind::Port | ObjectKind::Vtep | ObjectKind::Tunnel | ObjectKind::Mirror => {
                if let Some(trouble) = self.trouble_of(id) {
                    result.realised = false;
                    result.reason = Some(trouble.reason.clone());
                    result.hint.clone_from(&trouble.hint);
                }
            }
            ObjectKind::Daemon | ObjectKind::Dpdk if self.needs_restart() => {
                result.realised = false;
                result.reason = Some("it takes effect when vswitchd is started again".to_owned());
                result.hint = Some("systemctl restart vswitchd".to_owned());
            }
            ObjectKind::Daemon | ObjectKind::Dpdk => {}
            ObjectKind::Bridge | ObjectKind::Sflow | ObjectKind::Ipfix => {}
        }
        result
    }

    /// What keeps a port or VTEP from being as it is asked for; a tunnel is as its VTEP, and a mirror as
    /// the port or tunnel that copies leave by.
    fn trouble_of(&self, id: &ObjectId) -> Option<&Trouble> {
        match id.kind {
            ObjectKind::Port => self.ports.get(&id.name)?.trouble.as_ref(),
            ObjectKind::Vtep => self.vteps.get(&id.name)?.trouble.as_ref(),
            ObjectKind::Tunnel => {
                let vtep = vtep_of(&self.desired, self.desired.tunnels.get(&id.name)?)?;
                self.vteps.get(&vtep.name)?.trouble.as_ref()
            }
            ObjectKind::Mirror => {
                let mirror = self.desired.mirrors.get(&id.name)?;
                let kind = match self.desired.tunnels.contains_key(&mirror.to) {
                    true => ObjectKind::Tunnel,
                    false => ObjectKind::Port,
                };
                self.trouble_of(&ObjectId::new(kind, &*mirror.to))
            }
            ObjectKind::Daemon | ObjectKind::Dpdk => None,
            ObjectKind::Bridge | ObjectKind::Sflow | ObjectKind::Ipfix => None,
        }
    }

    /// Whether the daemon runs in another way than it is asked to.
    pub(super) fn needs_restart(&self) -> bool {
        self.desired.daemon != self.started_as.0 || self.desired.dpdk != self.started_as.1
    }

    fn plan(&self, mutation: Mutation) -> Result<Plan, ApiError> {
        match mutation {
            Mutation::Apply { toml, confirm } => self.plan_apply(&toml, confirm),
            Mutation::Reload(file) => {
                // As at start: a file that did not change leaves the store as it is.
                let last = self.store.file().map_err(|error| internal(&error))?;
                if last.as_ref() == Some(&file) {
                    let objects = self.store.objects().clone();
                    return Ok(self.plan_of(
                        "reload the configuration file",
                        objects,
                        Origin::File,
                    ));
                }
                let desired = config::from_toml_bytes(&file)?;
                let objects = self.objects_with(desired, false)?;
                let plan = self.plan_of("reload the configuration file", objects, Origin::File);
                Ok(Plan { file: Some(file), ..plan })
            }
            Mutation::Confirm => match self.store.pending() {
                Some(_) => Ok(self.plan_of("confirm", self.store.objects().clone(), Origin::Api)),
                None => {
                    let message = "no change waits for a confirmation";
                    Err(ApiError::new(Code::NothingToConfirm, message))
                }
            },
            Mutation::Rollback(revision) => self.plan_rollback(revision),
            other => self.plan_edit(other),
        }
    }

    fn plan_of(&self, what: &str, objects: Objects, origin: Origin) -> Plan {
        Plan { what: what.to_owned(), origin, objects, about: None, file: None, confirm: None }
    }

    /// The objects as they are once a file is loaded.
    pub(super) fn objects_with(&self, file: Desired, wins: bool) -> Result<Objects, ApiError> {
        let next = self.store.revision() + 1;
        let loaded = with_file(self.store.objects(), file, wins, next);
        loaded.map(|(objects, _)| objects).map_err(|misfit| match misfit {
            Misfit::Whole(problems) => problems.into(),
            Misfit::Collision(problems) => {
                ApiError { code: Code::OriginConflict, ..ApiError::from(problems) }
            }
        })
    }

    fn plan_apply(&self, toml: &str, confirm: Option<u64>) -> Result<Plan, ApiError> {
        if let Some(seconds) = confirm
            && !(1..=CONFIRM_MOST).contains(&seconds)
        {
            let message = format!("confirm is {seconds} seconds; it is 1 to {CONFIRM_MOST}");
            return Err(ApiError::new(Code::InvalidRequest, message));
        }
        let objects = self.objects_with(config::from_toml(toml)?, false)?;
        Ok(Plan { confirm, ..self.plan_of("config apply", objects, Origin::Api) })
    }

    fn plan_rollback(&self, revision: Option<u64>) -> Result<Plan, ApiError> {
        let waiting = self.store.pending().map(|pending| pending.back_to);
        let back = revision.or(waiting).or_else(|| self.store.revision().checked_sub(1));
        let objects = match back {
            // Before the first revision there was nothing: nobody means that by "the one before".
            Some(0) if waiting.is_none() => None,
            Some(back) => self.store.at(back).map_err(|error| internal(&error))?,
            None => None,
        };
        match (back, objects) {
            (Some(back), Some(objects)) => {
                Ok(self.plan_of(&format!("rollback to {back}"), objects, Origin::Api))
            }
            (back, _) => Err(no_such_revision(back.unwrap_or(0))),
        }
    }

    /// A change of single objects.
    fn plan_edit(&self, mutation: Mutation) -> Result<Plan, ApiError> {
        let mut desired = self.desired.clone();
        let (verb, id) = edit(&mut desired, mutation)?;
        let next = self.store.revision() + 1;
        let objects = edited(self.store.objects(), &specs(&desired), next);
        let what = format!("{} {verb} {}", id.kind.name(), id.name);
        Ok(Plan { about: Some(id), ..self.plan_of(&what, objects, Origin::Api) })
    }
}

/// Makes a change of single objects in `desired`. What was done, to which object.
fn edit(desired: &mut Desired, mutation: Mutation) -> Result<(&'static str, ObjectId), ApiError> {
    let bridge_id = |name: &str| ObjectId::new(ObjectKind::Bridge, name);
    let port_id = |name: &str| ObjectId::new(ObjectKind::Port, name);
    let vtep_id = |name: &str| ObjectId::new(ObjectKind::Vtep, name);
    let tunnel_id = |name: &str| ObjectId::new(ObjectKind::Tunnel, name);
    let mirror_id = |name: &str| ObjectId::new(ObjectKind::Mirror, name);
    match mutation {
        Mutation::AddBridge(spec) => {
            let id = bridge_id(&spec.name);
            match desired.bridges.insert(spec.name.clone(), spec) {
                Some(_) => Err(exists(&id)),
                None => Ok(("add", id)),
            }
        }
        Mutation::SetBridge(name, patch) => {
            let old = desired.bridges.get(&name).ok_or_else(|| no_such_bridge(&name))?;
            let spec = config::patch_bridge(old, keys(&patch)?)?;
            desired.bridges.insert(name.clone(), spec);
            Ok(("set", bridge_id(&name)))
        }
        Mutation::RemoveBridge(name) => {
            desired.bridges.remove(&name).ok_or_else(|| no_such_bridge(&name))?;
            let inside = |p: &&switch_core::config::PortSpec| p.bridge.as_deref() == Some(&*name);
            let ports: Vec<_> =
                desired.ports.values().filter(inside).map(|p| p.name.as_str()).collect();
            if !ports.is_empty() {
                let message = format!("bridge {name} has ports: {}", ports.join(", "));
                let hint = "delete them first, or put them into another bridge";
                return Err(ApiError::new(Code::InUse, message).with_hint(hint));
            }
            let inside = desired.tunnels.values().filter(|tunnel| tunnel.bridge == name);
            let tunnels: Vec<_> = inside.map(|tunnel| tunnel.name.as_str()).collect();
            if !tunnels.is_empty() {
                let message = format!("bridge {name} has tunnels: {}", named(&tunnels));
                let hint = "delete them first, or put them into another bridge";
                return Err(ApiError::new(Code::InUse, message).with_hint(hint));
            }
            unmirrored(desired, &bridge_id(&name), |mirror| mirror.bridges.contains(&name))?;
            Ok(("del", bridge_id(&name)))
        }
        Mutation::AddPort(spec) => {
            let id = port_id(&spec.name);
            match desired.ports.insert(spec.name.clone(), spec) {
                Some(_) => Err(exists(&id)),
                None => Ok(("add", id)),
            }
        }
        Mutation::SetPort(name, patch) => {
            let old = desired.ports.get(&name).ok_or_else(|| no_such_port(&name))?;
            let spec = config::patch_port(old, keys(&patch)?)?;
            desired.ports.insert(name.clone(), spec);
            Ok(("set", port_id(&name)))
        }
        Mutation::RemovePort(name) => {
            desired.ports.remove(&name).ok_or_else(|| no_such_port(&name))?;
            let uses = |mirror: &MirrorSpec| mirror.to == name || mirror.ports.contains(&name);
            unmirrored(desired, &port_id(&name), uses)?;
            Ok(("del", port_id(&name)))
        }
        Mutation::AddVtep(spec) => {
            let id = vtep_id(&spec.name);
            match desired.vteps.insert(spec.name.clone(), spec) {
                Some(_) => Err(exists(&id)),
                None => Ok(("add", id)),
            }
        }
        Mutation::SetVtep(name, patch) => {
            let old = desired.vteps.get(&name).ok_or_else(|| no_such_vtep(&name))?;
            let spec = config::patch_vtep(old, keys(&patch)?)?;
            desired.vteps.insert(name.clone(), spec);
            Ok(("set", vtep_id(&name)))
        }
        Mutation::RemoveVtep(name) => {
            let ends = |tunnel: &&switch_core::config::TunnelSpec| {
                vtep_of(desired, tunnel).is_some_and(|vtep| vtep.name == name)
            };
            let tunnels: Vec<_> =
                desired.tunnels.values().filter(ends).map(|tunnel| tunnel.name.as_str()).collect();
            if !tunnels.is_empty() {
                let message = format!("tunnels end at VTEP {name}: {}", named(&tunnels));
                let hint = "delete them first, or let them end at another VTEP";
                return Err(ApiError::new(Code::InUse, message).with_hint(hint));
            }
            desired.vteps.remove(&name).ok_or_else(|| no_such_vtep(&name))?;
            Ok(("del", vtep_id(&name)))
        }
        Mutation::AddTunnel(spec) => {
            let id = tunnel_id(&spec.name);
            match desired.tunnels.insert(spec.name.clone(), spec) {
                Some(_) => Err(exists(&id)),
                None => Ok(("add", id)),
            }
        }
        Mutation::SetTunnel(name, patch) => {
            let old = desired.tunnels.get(&name).ok_or_else(|| no_such_tunnel(&name))?;
            let spec = config::patch_tunnel(old, keys(&patch)?)?;
            desired.tunnels.insert(name.clone(), spec);
            Ok(("set", tunnel_id(&name)))
        }
        Mutation::RemoveTunnel(name) => {
            desired.tunnels.remove(&name).ok_or_else(|| no_such_tunnel(&name))?;
            unmirrored(desired, &tunnel_id(&name), |mirror| mirror.to == name)?;
            Ok(("del", tunnel_id(&name)))
        }
        Mutation::AddMirror(spec) => {
            let id = mirror_id(&spec.name);
            match desired.mirrors.insert(spec.name.clone(), spec) {
                Some(_) => Err(exists(&id)),
                None => Ok(("add", id)),
            }
        }
        Mutation::SetMirror(name, patch) => {
            let old = desired.mirrors.get(&name).ok_or_else(|| no_such_mirror(&name))?;
            let spec = config::patch_mirror(old, keys(&patch)?)?;
            desired.mirrors.insert(name.clone(), spec);
            Ok(("set", mirror_id(&name)))
        }
        Mutation::RemoveMirror(name) => {
            desired.mirrors.remove(&name).ok_or_else(|| no_such_mirror(&name))?;
            Ok(("del", mirror_id(&name)))
        }
        Mutation::AddVlan(VlanRequest { port, vlan, mode }) => {
            let spec = desired.ports.get_mut(&port).ok_or_else(|| no_such_port(&port))?;
            spec.vlan = config::vlan_add(&spec.vlan, vlan_id(vlan)?, mode);
            Ok(("set", port_id(&port)))
        }
        Mutation::RemoveVlan { port, vlan } => {
            let spec = desired.ports.get_mut(&port).ok_or_else(|| no_such_port(&port))?;
            spec.vlan = config::vlan_del(&spec.vlan, vlan_id(vlan)?)
                .map_err(|error| cannot_leave(&port, error))?;
            Ok(("set", port_id(&port)))
        }
        Mutation::Apply { .. }
        | Mutation::Confirm
        | Mutation::Rollback(_)
        | Mutation::Reload(_) => {
            // They are planned as a whole before this is reached.
            Err(ApiError::new(Code::Internal, "not a change of one object"))
        }
    }
}

/// Refuses to delete what mirrors name.
fn unmirrored(
    desired: &Desired,
    object: &ObjectId,
    uses: impl Fn(&MirrorSpec) -> bool,
) -> Result<(), ApiError> {
    let using = desired.mirrors.values().filter(|mirror| uses(mirror));
    let names: Vec<_> = using.map(|mirror| mirror.name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let message = format!("mirrors name {object}: {}", named(&names));
    Err(ApiError::new(Code::InUse, message).with_hint("delete them first, or take it out of them"))
}

/// How many names are told of those that are in the way.
const NAMED: usize = 10;

/// The first of some names.
fn named(names: &[&str]) -> String {
    let first = names.get(..NAMED).unwrap_or(names).join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A patch with keys in it; anything else is no request at all.
fn keys(patch: &Json) -> Result<&Json, ApiError> {
    if patch.is_object() {
        return Ok(patch);
    }
    let message = "a change is an object with the keys to be changed";
    Err(ApiError::new(Code::InvalidRequest, message))
}

fn vlan_id(vlan: u16) -> Result<VlanId, ApiError> {
    VlanId::new(vlan)
        .map_err(|error| Problems(vec![Problem::new("vlan", error.to_string())]).into())
}

fn cannot_leave(port: &str, error: VlanDelError) -> ApiError {
    let message = format!("port {port}: {error}");
    match error {
        VlanDelError::NoMember(_) => ApiError::new(Code::NoSuchVlan, message),
        VlanDelError::OnlyOne(_) => {
            let hint = format!(
                "put it into another VLAN first, or let it pass every VLAN: vswitch-ctl port set \
                 {port} --unset access --unset trunk --unset native"
            );
            ApiError::new(Code::InvalidConfig, message).with_hint(hint)
        }
    }
}

/// What a caller is told of a store that fails.
pub(super) fn internal(error: &StoreError) -> ApiError {
    tracing::error!(error = %error, "the store failed");
    ApiError::new(Code::Internal, error.to_string()).with_hint(error.hint())
}

pub(super) fn no_such_revision(revision: u64) -> ApiError {
    let message = format!("there is no revision {revision}, or it is too old to be kept");
    ApiError::new(Code::NoSuchRevision, message).with_hint("vswitch-ctl config history")
}

pub(crate) fn no_such_bridge(name: &str) -> ApiError {
    let message = format!("there is no bridge {name:?}");
    ApiError::new(Code::NoSuchBridge, message).with_hint("vswitch-ctl bridge show")
}

pub(crate) fn no_such_port(name: &str) -> ApiError {
    let message = format!("there is no port {name:?}");
    ApiError::new(Code::NoSuchPort, message).with_hint("vswitch-ctl port show")
}

pub(crate) fn no_such_vtep(name: &str) -> ApiError {
    let message = format!("there is no VTEP {name:?}");
    ApiError::new(Code::NoSuchVtep, message).with_hint("vswitch-ctl vtep show")
}

pub(crate) fn no_such_tunnel(name: &str) -> ApiError {
    let message = format!("there is no tunnel {name:?}");
    ApiError::new(Code::NoSuchTunnel, message).with_hint("vswitch-ctl tunnel show")
}

pub(crate) fn no_such_mirror(name: &str) -> ApiError {
    let message = format!("there is no mirror {name:?}");
    ApiError::new(Code::NoSuchMirror, message).with_hint("vswitch-ctl mirror show")
}

fn exists(id: &ObjectId) -> ApiError {
    let message = format!("there is a {id} already");
    let hint = format!("change it with vswitch-ctl {} set {}", id.kind.name(), id.name);
    ApiError::new(Code::Exists, message).with_hint(hint)
}
