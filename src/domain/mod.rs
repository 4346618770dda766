//! The rules of Sandglass, pure: no client, no IO, time as an argument.

#[cfg(feature = "server")]
pub mod access;
#[cfg(feature = "server")]
pub mod configuration;
#[cfg(feature = "server")]
pub mod environment;
#[cfg(feature = "server")]
pub mod images;
#[cfg(feature = "server")]
pub mod lifetime;
#[cfg(feature = "server")]
pub mod names;
#[cfg(feature = "server")]
pub mod quantity;
