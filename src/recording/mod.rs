//! What users are shown and what they do, written to the object store while it happens; and read back from there.
//! docs/recording.md is the format. Knows no SSH and no Kubernetes; the gateway hands it bytes and events.

pub mod archive;
pub mod audit;
pub mod cast;
pub mod evidence;
pub mod format;
pub mod manifest;
pub mod metrics;
pub mod neutral;
mod packing;
pub mod read;
pub mod recorder;
pub mod seal;
pub mod sftp;
pub mod verify;
mod writer;
