//! `/livez`, `/readyz` and `/metrics` on plain HTTP for the kubelet and for Prometheus; and the web page, where there is one.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::gateway::page::Shown;
use super::{Health, Shutdown};
use crate::page::Page;

/// Connections at once; more wait.
const AT_ONCE: usize = 64;
/// A connection that has not sent its request by then is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until `shutdown`.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, site: Site, shutdown: Shutdown) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}: is the port taken?"))?;
    serve_on(listener, site, shutdown).await;
    Ok(())
}

/// What is served.
pub struct Site {
    /// `/livez` and `/readyz`.
    pub health: Health,
    /// `/metrics`.
    pub registry: Registry,
    /// Everything else, where there is a page.
    pub page: Option<Page<Shown>>,
}

async fn serve_on(listener: TcpListener, site: Site, shutdown: Shutdown) {
    let site = Arc::new(site);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (stream, peer) = tokio::select! {
            () = shutdown.requested() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let site = Arc::clone(&site);
                async move { Ok::<_, Infallible>(answer(&request, peer, &site).await) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended badly");
            }
            drop(permit);
        });
    }
}

async fn answer<B>(request: &Request<B>, peer: SocketAddr, site: &Site) -> Response<Full<Bytes>> {
    let (uri, page) = (request.uri(), site.page.as_ref());
    match page.filter(|_| !matches!(uri.path(), "/livez" | "/readyz" | "/metrics")) {
        Some(page) => page.answer(peer.ip(), request.method(), uri.path(), uri.query(), request.headers()).await,
        None => machine_answer(request, &site.health, &site.registry),
    }
}

fn machine_answer<B>(request: &Request<B>, health: &Health, registry: &Registry) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match health.closed() {
            closed if closed.is_empty() => text(StatusCode::OK, "ok\n".into()),
            closed => text(StatusCode::SERVICE_UNAVAILABLE, format!("not yet: {}\n", closed.join(", "))),
        },
        "/metrics" => {
            let mut body = String::new();
            match prometheus_client::encoding::text::encode(&mut body, registry) {
                Ok(()) => typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n".into()),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Supervisor, metrics};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn health_and_metrics_are_served() {
        let supervisor = Supervisor::new();
        let health = Health::default();
        let gate = health.gate("first list");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(serve_on(listener, Site { health, registry: metrics::registry(), page: None }, supervisor.shutdown()));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let waiting = get(address, "/readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503") && waiting.contains("first list"), "{waiting}");
        gate.open();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("sandglass_build_info"));
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
    }
}
