//! The adapter to the API server: the client, a deadline on every call, error categories, time, events, and the reads that
//! prove a namespace isolated. No decisions about sessions.

mod call;
mod client;
pub mod isolation;
mod recorder;
pub mod time;
pub mod token_review;

pub use call::{CallError, Category, DEADLINE, call, call_or_absent};
pub use client::{ClientError, connect, connect_for_lease};
pub use recorder::Recorder;
