//! The rules of Sandglass, pure: no client, no IO, time as an argument.

pub mod access;
pub mod configuration;
pub mod environment;
pub mod images;
pub mod lifetime;
pub mod line;
pub mod names;
pub mod power;
pub mod provisioning;
pub mod quantity;
pub mod recording;
pub mod recoveries;
pub mod secret;
