//! The page's own files, and the player's where this build has them. In the program, not on a disk.

use super::response::{Policy, respond};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

/// A file.
pub struct Asset {
    name: &'static str,
    kind: &'static str,
    body: &'static [u8],
    /// Changes with the content: the query of its address, and its `ETag`.
    version: String,
}

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let mut assets = vec![
        Asset::new("page.css", CSS, include_bytes!("assets/page.css")),
        Asset::new("page.js", JAVASCRIPT, include_bytes!("assets/page.js")),
        Asset::new("icon.svg", "image/svg+xml", include_bytes!("assets/icon.svg")),
    ];
    assets.extend(player());
    assets
});

/// The player's files. build.rs sets this switch where the environment names their folder.
#[cfg(sandglass_player)]
fn player() -> Vec<Asset> {
    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!(env!("SANDGLASS_PLAYER"), "/", $name))
        };
    }
    vec![
        Asset::new("player.css", CSS, file!("asciinema-player.css")),
        Asset::new("player.js", JAVASCRIPT, file!("asciinema-player.min.js")),
        Asset::new("player-license.txt", "text/plain; charset=utf-8", file!("LICENSE")),
    ]
}

#[cfg(not(sandglass_player))]
const fn player() -> Vec<Asset> {
    Vec::new()
}

/// Whether this build can play recordings.
#[must_use]
pub const fn has_player() -> bool {
    cfg!(sandglass_player)
}

impl Asset {
    fn new(name: &'static str, kind: &'static str, body: &'static [u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        Self { name, kind, body, version: format!("{:016x}", hasher.finish()) }
    }
}

/// The address of a file with its version, so that it can be kept for ever.
#[must_use]
pub fn address(name: &str) -> String {
    let version = ASSETS.iter().find(|asset| asset.name == name).map_or("", |asset| &asset.version);
    format!("/assets/{name}?{version}")
}

/// The file of that name. Under an address with its version it may be kept, under any other it is asked for again.
#[must_use]
pub fn answer(name: &str, query: Option<&str>, headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let asset = ASSETS.iter().find(|asset| asset.name == name)?;
    let tag = format!("\"{}\"", asset.version);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let unchanged = known.flat_map(|value| value.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag);
    let mut response = if unchanged {
        respond(StatusCode::NOT_MODIFIED, asset.kind, Policy::File, Bytes::new())
    } else {
        respond(StatusCode::OK, asset.kind, Policy::File, Bytes::from_static(asset.body))
    };
    let keep = if query == Some(&asset.version) { "private, max-age=31536000, immutable" } else { "private, no-cache" };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Some(response)
}
