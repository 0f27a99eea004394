//! Every route of the API, once: what the OpenAPI document says and what the daemon's router is
//! tested against.
//!
//! A bridge, port, VTEP, tunnel or mirror is added with the keys of its table in the file, and changed by a JSON merge
//! patch of them. Every list is an object with `items`; every error is an [`ErrorBody`].
//!
//! [`ErrorBody`]: crate::ErrorBody

use utoipa::ToSchema;
use utoipa::openapi::{RefOr, schema::Schema};

use crate::config::Change;
use crate::error::Code::{self, *};
use crate::types::*;

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// HTTP method, in upper case.
    pub method: &'static str,
    /// Path; `{name}` stands for one segment.
    pub path: &'static str,
    /// Name of the operation, unique.
    pub operation: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Parameters of the query.
    pub query: &'static [Query],
    /// What it takes.
    pub body: Option<Shape>,
    /// What it gives.
    pub reply: Shape,
    /// The errors it can give, beside those that every route can.
    pub errors: &'static [Code],
}

/// A parameter of a query.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Its name.
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub value: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// A body.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// JSON of this type.
    Json(Type),
    /// A [`List`] of this type.
    List(Type),
    /// A stream of lines, each JSON of this type.
    Lines(Type),
    /// Any JSON object.
    Object,
    /// Text of this media type.
    Text(&'static str),
}

/// Collects the schemas that a schema refers to.
type Collect = fn(&mut Vec<(String, RefOr<Schema>)>);

/// A type with a schema.
#[derive(Clone, Copy, Debug)]
pub struct Type {
    pub(crate) name: fn() -> String,
    pub(crate) schema: fn() -> RefOr<Schema>,
    pub(crate) collect: Collect,
}

impl Type {
    const fn of<T: ToSchema>() -> Self {
        Self {
            name: || T::name().into_owned(),
            schema: || T::schema(),
            collect: |out| T::schemas(out),
        }
    }
}

const fn json<T: ToSchema>() -> Shape {
    Shape::Json(Type::of::<T>())
}

const fn list<T: ToSchema>() -> Shape {
    Shape::List(Type::of::<T>())
}

const fn lines<T: ToSchema>() -> Shape {
    Shape::Lines(Type::of::<T>())
}

const NONE: &[Query] = &[];

const BY_PORT: Query = Query { name: "port", value: "string", doc: "Only of this port." };
const BY_BRIDGE: Query = Query { name: "bridge", value: "string", doc: "Only of this bridge." };
const BY_VLAN: Query = Query {
    name: "vlan",
    value: "integer",
    doc: "Only of this VLAN; 0 for untagged traffic that is in none.",
};
const BY_MAC: Query = Query { name: "mac", value: "string", doc: "Only of this address." };
const BY_TYPE: Query =
    Query { name: "type", value: "string", doc: "Only learned, static or local entries." };
const BY_VTEP: Query = Query { name: "vtep", value: "string", doc: "Only of this VTEP." };
const BY_TUNNEL: Query = Query { name: "tunnel", value: "string", doc: "Only of this tunnel." };
const BY_REMOTE: Query =
    Query { name: "remote", value: "string", doc: "Only behind the remote VTEP of this address." };
const BY_REASON: Query = Query { name: "reason", value: "string", doc: "Only for this reason." };
const BY_FILTER: Query = Query {
    name: "filter",
    value: "string",
    doc: "Only frames that meet this, in the words of tcpdump.",
};
const BY_IN_PORT: Query =
    Query { name: "in", value: "string", doc: "Only frames that come in on this port." };
const ONE_IN: Query =
    Query { name: "one-in", value: "integer", doc: "Of these, one in so many; 1 by default." };
const RATE: Query =
    Query { name: "rate", value: "integer", doc: "Most frames a second; 100 by default." };
const SNAP: Query = Query {
    name: "snap",
    value: "integer",
    doc: "Most bytes of each frame, 64 to 65550; 2048 by default.",
};
const DROPPED: Query =
    Query { name: "dropped", value: "boolean", doc: "Only frames that are dropped." };
const FOLLOW: Query = Query {
    name: "follow",
    value: "boolean",
    doc: "Stay, and send what happens from now on as it happens.",
};

macro_rules! routes {
    ($($method:ident $path:literal $operation:literal, $summary:literal, $query:expr,
        $body:expr => $reply:expr, [$($error:ident),*];)*) => {
        /// The table.
        pub const ROUTES: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            operation: $operation,
            summary: $summary,
            query: $query,
            body: $body,
            reply: $reply,
            errors: &[$($error),*],
        }),*];
    };
}

routes! {
    GET "/v1/version" "version", "Which daemon answers", NONE, None => json::<VersionReply>(), [];
    GET "/v1/status" "status", "How the switch is, as a whole", NONE,
        None => json::<StatusReply>(), [];

    GET "/v1/bridges" "bridges", "All bridges", NONE, None => list::<BridgeStatus>(), [];
    POST "/v1/bridges" "add-bridge", "Adds a bridge", NONE,
        Some(json::<BridgeConfig>()) => json::<MutationReply>(), [InvalidConfig, Exists];
    GET "/v1/bridges/{name}" "bridge", "One bridge", NONE,
        None => json::<BridgeStatus>(), [NoSuchBridge];
    PATCH "/v1/bridges/{name}" "set-bridge", "Changes keys of a bridge; null resets one", NONE,
        Some(Shape::Object) => json::<MutationReply>(), [InvalidConfig, NoSuchBridge];
    DELETE "/v1/bridges/{name}" "delete-bridge", "Deletes a bridge that no port is in", NONE,
        None => json::<MutationReply>(), [NoSuchBridge, InUse];

    GET "/v1/ports" "ports", "All ports", &[BY_BRIDGE], None => list::<PortStatus>(), [];
    POST "/v1/ports" "add-port", "Adds a port and opens its device", NONE,
        Some(json::<PortConfig>()) => json::<MutationReply>(), [InvalidConfig, Exists];
    GET "/v1/ports/{name}" "port", "One port", NONE, None => json::<PortStatus>(), [NoSuchPort];
    PATCH "/v1/ports/{name}" "set-port", "Changes keys of a port; null resets one", NONE,
        Some(Shape::Object) => json::<MutationReply>(), [InvalidConfig, NoSuchPort];
    DELETE "/v1/ports/{name}" "delete-port",
        "Deletes a port, and its TAP device if the switch made it", NONE,
        None => json::<MutationReply>(), [NoSuchPort];
    GET "/v1/ports/{name}/stats" "port-stats", "Everything that is counted on a port", NONE,
        None => json::<PortStats>(), [NoSuchPort];
    GET "/v1/stats" "stats", "Everything that is counted, by port", NONE,
        None => list::<PortStats>(), [];

    GET "/v1/vlans" "vlans", "Which port is in which VLAN", &[BY_PORT, BY_BRIDGE],
        None => list::<VlanRow>(), [];
    POST "/v1/vlans" "add-vlan", "Puts a port into a VLAN", NONE,
        Some(json::<VlanRequest>()) => json::<MutationReply>(), [InvalidConfig, NoSuchPort];
    DELETE "/v1/vlans/{port}/{vlan}" "delete-vlan", "Takes a port out of a VLAN", NONE,
        None => json::<MutationReply>(), [NoSuchPort, NoSuchVlan];

    GET "/v1/vteps" "vteps", "All VTEPs", NONE, None => list::<VtepStatus>(), [];
    POST "/v1/vteps" "add-vtep", "Adds a VTEP and opens its sockets", NONE,
        Some(json::<VtepConfig>()) => json::<MutationReply>(), [InvalidConfig, Exists];
    GET "/v1/vteps/{name}" "vtep", "One VTEP", NONE, None => json::<VtepStatus>(), [NoSuchVtep];
    PATCH "/v1/vteps/{name}" "set-vtep", "Changes keys of a VTEP; null resets one", NONE,
        Some(Shape::Object) => json::<MutationReply>(), [InvalidConfig, NoSuchVtep];
    DELETE "/v1/vteps/{name}" "delete-vtep", "Deletes a VTEP that no tunnel ends at", NONE,
        None => json::<MutationReply>(), [NoSuchVtep, InUse];

    GET "/v1/tunnels" "tunnels", "All tunnels", &[BY_BRIDGE, BY_VTEP],
        None => list::<TunnelStatus>(), [];
    POST "/v1/tunnels" "add-tunnel", "Adds a tunnel", NONE,
        Some(json::<TunnelConfig>()) => json::<MutationReply>(), [InvalidConfig, Exists];
    GET "/v1/tunnels/{name}" "tunnel", "One tunnel", NONE,
        None => json::<TunnelStatus>(), [NoSuchTunnel];
    PATCH "/v1/tunnels/{name}" "set-tunnel", "Changes keys of a tunnel; null resets one", NONE,
        Some(Shape::Object) => json::<MutationReply>(), [InvalidConfig, NoSuchTunnel];
    DELETE "/v1/tunnels/{name}" "delete-tunnel", "Deletes a tunnel", NONE,
        None => json::<MutationReply>(), [NoSuchTunnel];
    GET "/v1/tunnels/{name}/peers" "tunnel-peers", "The remotes of a tunnel", NONE,
        None => list::<TunnelPeer>(), [NoSuchTunnel];
    POST "/v1/tunnels/{name}/peers" "add-tunnel-peers", "Adds remotes until vswitchd stops", NONE,
        Some(json::<PeersRequest>()) => json::<PeersReply>(), [InvalidRequest, NoSuchTunnel];
    POST "/v1/tunnels/{name}/peers/delete" "delete-tunnel-peers",
        "Deletes remotes that were added so", NONE,
        Some(json::<PeersRequest>()) => json::<PeersReply>(), [NoSuchTunnel];
    GET "/v1/mtu" "mtu", "What fits through tunnels, and which ports ask for more", &[BY_TUNNEL],
        None => json::<MtuReply>(), [NoSuchTunnel];

    GET "/v1/mirrors" "mirrors", "All mirrors", NONE, None => list::<MirrorStatus>(), [];
    POST "/v1/mirrors" "add-mirror", "Adds a mirror", NONE,
        Some(json::<MirrorConfig>()) => json::<MutationReply>(), [InvalidConfig, Exists];
    GET "/v1/mirrors/{name}" "mirror", "One mirror", NONE,
        None => json::<MirrorStatus>(), [NoSuchMirror];
    PATCH "/v1/mirrors/{name}" "set-mirror", "Changes keys of a mirror; null resets one", NONE,
        Some(Shape::Object) => json::<MutationReply>(), [InvalidConfig, NoSuchMirror];
    DELETE "/v1/mirrors/{name}" "delete-mirror", "Deletes a mirror", NONE,
        None => json::<MutationReply>(), [NoSuchMirror];

    GET "/v1/fdb" "fdb", "The forwarding database",
        &[BY_BRIDGE, BY_PORT, BY_REMOTE, BY_VLAN, BY_MAC, BY_TYPE], None => list::<FdbEntry>(), [];
    POST "/v1/fdb" "add-fdb", "Adds or replaces entries", NONE,
        Some(json::<FdbBatch>()) => json::<FdbBatchReply>(),
        [InvalidRequest, NoSuchBridge, NoSuchPort, NoSuchTunnel, FdbFull];
    POST "/v1/fdb/delete" "delete-fdb", "Deletes entries", NONE,
        Some(json::<FdbSelector>()) => json::<FdbBatchReply>(), [NoSuchBridge, NoSuchEntry];
    POST "/v1/fdb/flush" "flush-fdb", "Forgets entries in bulk", NONE,
        Some(json::<FdbFlush>()) => json::<FdbBatchReply>(), [NoSuchBridge, NoSuchPort];
    GET "/v1/fdb/monitor" "monitor-fdb", "What happens to entries from now on",
        &[BY_BRIDGE, BY_PORT], None => lines::<FdbEvent>(), [NoSuchBridge, NoSuchPort];

    GET "/v1/drops" "drops", "Frames dropped, by port and reason; what never happened is left out",
        &[BY_PORT, BY_BRIDGE, BY_TUNNEL, BY_REASON], None => list::<DropRow>(),
        [NoSuchPort, NoSuchBridge, NoSuchTunnel];
    GET "/v1/trace" "trace", "Frames from now on, each with all it met; some, where there are many",
        &[BY_FILTER, BY_IN_PORT, ONE_IN, RATE],
        None => lines::<Trace>(), [InvalidRequest, NoSuchPort, Busy];
    POST "/v1/trace/frame" "trace-frame",
        "What would become of a frame if it came in now; nothing is changed by asking", NONE,
        Some(json::<TraceRequest>()) => json::<Trace>(), [InvalidRequest, NoSuchPort];
    GET "/v1/capture" "capture", "Frames from now on as a pcapng file that goes on",
        &[BY_PORT, BY_FILTER, SNAP, DROPPED, BY_REASON],
        None => Shape::Text("application/x-pcapng"), [InvalidRequest, NoSuchPort, Busy];
    GET "/v1/exports" "exports", "What collectors of samples are told", NONE,
        None => list::<ExportStatus>(), [];
    GET "/v1/cpu" "cpu", "The workers", NONE, None => list::<CpuStatus>(), [];
    GET "/v1/events" "events", "What happened, oldest first", &[FOLLOW],
        None => lines::<Event>(), [];
    GET "/v1/metrics" "metrics", "Prometheus metrics", NONE,
        None => Shape::Text("text/plain; version=0.0.4"), [];

    GET "/v1/config" "config", "The desired state", NONE, None => json::<ConfigReply>(), [];
    POST "/v1/config/validate" "validate-config", "Finds what is wrong with a configuration", NONE,
        Some(json::<ConfigText>()) => json::<ValidateReply>(), [];
    POST "/v1/config/diff" "diff-config", "What a configuration would change", NONE,
        Some(json::<ConfigText>()) => json::<DiffReply>(), [InvalidConfig];
    POST "/v1/config/apply" "apply-config", "Makes a configuration the desired state", NONE,
        Some(json::<ApplyRequest>()) => json::<MutationReply>(),
        [InvalidConfig, OriginConflict, ConfirmPending];
    POST "/v1/config/confirm" "confirm-config", "Keeps the change that waits for it", NONE,
        None => json::<MutationReply>(), [NothingToConfirm];
    POST "/v1/config/rollback" "rollback-config", "Makes an earlier revision the desired state",
        NONE, Some(json::<RollbackRequest>()) => json::<MutationReply>(), [NoSuchRevision];
    GET "/v1/config/history" "config-history", "The revisions, newest first", NONE,
        None => list::<HistoryEntry>(), [];
    GET "/v1/config/history/{revision}" "config-revision", "The desired state of a revision", NONE,
        None => json::<ConfigReply>(), [NoSuchRevision];
    GET "/v1/config/history/{revision}/changes" "config-changes",
        "What a revision changed, against the one before", NONE,
        None => list::<Change>(), [NoSuchRevision];
    GET "/v1/config/schema" "config-schema", "JSON Schema of a configuration", NONE,
        None => Shape::Object, [];
    GET "/v1/openapi.json" "openapi", "This document", NONE, None => Shape::Object, [];
}
