//! The web page: sessions with the time they have left, recordings, a player. Read-only, behind the ingress's authentication.
//!
//! Routing and rendering are pure; what is shown comes through [`Source`]. No Kubernetes, no object store and no socket in here.
//! Whoever asks is known from a header of the ingress proxy, believed only from the proxy's own addresses. There are no
//! cookies, nothing is changed by a request but the audit stream, and the browser is told to load nothing from elsewhere.

mod assets;
mod html;
mod identity;
mod layout;
mod recording;
mod recordings;
mod response;
mod route;
mod sessions;
mod source;

pub use assets::has_player;
pub use identity::{Refusal, Settings};
pub use source::{
    ChannelRow, Filter, RecordingDetail, RecordingKey, RecordingRow, RecordingState, SessionRow, Source, SourceError, Verdict, Verification,
};

use bytes::Bytes;
use chrono::Utc;
use html::Html;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response, StatusCode};
use layout::{Frame, Place};
use response::{Policy, line, page, respond};
use route::{QueryError, Route};
use std::net::IpAddr;

/// The page over a source.
pub struct Page<S: Source> {
    settings: Settings,
    source: S,
}

type Answer = Response<Full<Bytes>>;

impl<S: Source> Page<S> {
    /// A page that believes `settings` and shows what `source` has.
    pub const fn new(settings: Settings, source: S) -> Self {
        Self { settings, source }
    }

    /// The response to one request. `peer` is the address at the other end of the connection.
    pub async fn answer(&self, peer: IpAddr, method: &Method, path: &str, query: Option<&str>, headers: &HeaderMap) -> Answer {
        let who = match self.settings.identify(peer, headers) {
            Ok(who) => who,
            Err(refusal) => return line(StatusCode::FORBIDDEN, &refusal.to_string()),
        };
        if method != Method::GET && method != Method::HEAD {
            let mut response = line(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match route::route(path) {
            Some(Route::Sessions) => self.sessions(who),
            Some(Route::SessionList) => {
                page(StatusCode::OK, Policy::Page, sessions::list(self.source.sessions(), Utc::now()).into_string())
            }
            Some(Route::Recordings) => self.recordings(who, query).await,
            Some(Route::Recording(key)) => self.recording(who, &key, query).await,
            Some(Route::Cast(key, channel)) => self.cast(who, &key, channel).await,
            Some(Route::Asset(name)) => assets::answer(name, query, headers).unwrap_or_else(|| not_found(who)),
            None => not_found(who),
        }
    }

    fn sessions(&self, who: &str) -> Answer {
        let mut content = sessions::list(self.source.sessions(), Utc::now());
        content.raw("<p id=\"news\" role=\"status\"></p>\n");
        let frame = Frame { title: "Sessions", place: Place::Sessions, who, refresh: true, player: false };
        page(StatusCode::OK, Policy::Page, frame.document(&content))
    }

    async fn recordings(&self, who: &str, query: Option<&str>) -> Answer {
        let filter = match route::filter(query) {
            Ok(filter) => filter,
            Err(error) => return bad_query(who, &error),
        };
        match self.source.recordings(&filter).await {
            Ok(rows) => {
                let frame = Frame { title: "Recordings", place: Place::Recordings, who, refresh: false, player: false };
                page(StatusCode::OK, Policy::Page, frame.document(&recordings::list(&filter, &rows)))
            }
            Err(error) => failed(who, "The recordings cannot be listed", &error),
        }
    }

    async fn recording(&self, who: &str, key: &RecordingKey, query: Option<&str>) -> Answer {
        let asked = match route::channel(query) {
            Ok(asked) => asked,
            Err(error) => return bad_query(who, &error),
        };
        if let Err(error) = self.source.opened(who, key).await {
            return failed(who, NOT_AUDITED, &error);
        }
        let detail = match self.source.recording(key).await {
            Ok(detail) => detail,
            Err(error) => return failed(who, "The recording cannot be read", &error),
        };
        let Ok(channel) = recording::chosen(&detail, asked) else { return not_found(who) };
        let player = has_player() && channel.is_some();
        let title = format!("Recording of {}/{}", key.namespace(), key.name());
        let frame = Frame { title: &title, place: Place::Recordings, who, refresh: false, player };
        let policy = if player { Policy::Player } else { Policy::Page };
        page(StatusCode::OK, policy, frame.document(&recording::content(&detail, channel, has_player())))
    }

    async fn cast(&self, who: &str, key: &RecordingKey, channel: u32) -> Answer {
        if let Err(error) = self.source.opened(who, key).await {
            return failed(who, NOT_AUDITED, &error);
        }
        let cast = match self.source.cast(key, channel).await {
            Ok(cast) => cast,
            Err(error) => return failed(who, "The recording cannot be read", &error),
        };
        let mut response = respond(StatusCode::OK, "application/x-asciicast", Policy::File, cast);
        // A key's characters need no quoting in a file name.
        let name = format!("attachment; filename=\"{}-{}-{}-{channel}.cast\"", key.namespace(), key.name(), key.connection());
        if let Ok(name) = HeaderValue::from_str(&name) {
            response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
        }
        response
    }
}

const NOT_AUDITED: &str = "That you open this recording cannot be written to the audit log, so it is not shown";

fn failed(who: &str, what: &str, error: &SourceError) -> Answer {
    match error {
        SourceError::Missing => not_found(who),
        SourceError::Unavailable(why) => message(who, StatusCode::SERVICE_UNAVAILABLE, "Not now", &format!("{what}: {why}.")),
    }
}

fn bad_query(who: &str, error: &QueryError) -> Answer {
    message(who, StatusCode::BAD_REQUEST, "Not understood", &format!("This address is wrong: {error}."))
}

fn not_found(who: &str) -> Answer {
    message(who, StatusCode::NOT_FOUND, "Not found", "There is nothing here: the address is wrong, or what it named was deleted.")
}

fn message(who: &str, status: StatusCode, title: &str, text: &str) -> Answer {
    let mut content = Html::default();
    content.raw("<p>").text(text).raw("</p>\n");
    let frame = Frame { title, place: Place::Elsewhere, who, refresh: false, player: false };
    page(status, Policy::Page, frame.document(&content))
}

#[cfg(test)]
mod tests;
