//! What is told to collectors elsewhere.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a collector is told, and how well. All numbers count from when it was configured so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ExportStatus {
    /// `sflow` or `ipfix`.
    pub protocol: String,
    /// Address and UDP port of the collector.
    #[schema(value_type = String)]
    pub collector: SocketAddr,
    /// One frame in so many is sampled.
    pub one_in: u32,
    /// Frames that were sampled.
    pub samples: u64,
    /// Samples that were lost, as there were more than the exporter could take.
    pub missed: u64,
    /// Of IPFIX: flows that are in the cache now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<u64>,
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that could not be sent.
    pub failed: u64,
    /// Why the last datagram could not be sent, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
