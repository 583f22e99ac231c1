//! The HTTP server that Prometheus and probes ask, on the control runtime: `/metrics`; `/healthz`, whether
//! the process serves; `/readyz`, whether clients can log in.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE as CONTENT_TYPE_HEADER;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::{CONTENT_TYPE, Registry, render};
use crate::topology::Routes;

/// Connections served at once: a scraper needs one, a flood shall not take the control runtime.
const MAX_CONNECTIONS: usize = 32;
/// A peer that does not send a request's head within this is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until the future is dropped.
///
/// # Errors
/// Only when the listener itself fails; a peer's failure ends that peer's connection.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    routes: Arc<Routes>,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else { return Ok(()) };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) if is_peers_fault(&e) => continue,
            Err(e) => return Err(e),
        };
        let (registry, routes) = (registry.clone(), routes.clone());
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = respond(&request, &registry, &routes);
                async { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "metrics connection ended");
            }
            drop(slot);
        });
    }
}

fn respond<B>(request: &Request<B>, registry: &Registry, routes: &Routes) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, CONTENT_TYPE, render(registry, &routes.load()))
        }
        (&Method::GET | &Method::HEAD, "/healthz") if registry.is_ready() => {
            (StatusCode::OK, "text/plain", "ok\n".to_owned())
        }
        (&Method::GET | &Method::HEAD, "/readyz") if registry.can_log_in() => {
            (StatusCode::OK, "text/plain", "ok\n".to_owned())
        }
        (&Method::GET | &Method::HEAD, "/healthz" | "/readyz") => {
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not ready\n".to_owned())
        }
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, "text/plain", "try /metrics, /healthz or /readyz\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE_HEADER, hyper::header::HeaderValue::from_static(kind));
    response
}

/// Whether accepting failed because of the connection that was to be accepted, and the next one may
/// succeed. Out of file descriptors is not: trying again at once would only burn the processor.
fn is_peers_fault(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::topology::{Node, NodeId, RoutingTable, Rows};

    async fn get(addr: std::net::SocketAddr, path: &str) -> String {
        let mut s = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        s.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        s.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_health_and_what_is_not_there() {
        let node =
            Node { id: NodeId(1), name: "n".into(), host: "h".into(), port: 1, is_home: true };
        let rows = Rows { epoch: 1, nodes: vec![node], ..Rows::default() };
        let routes = Arc::new(Routes::new(RoutingTable::build(&rows).unwrap()));
        let registry = Arc::new(Registry::new(1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, registry.clone(), routes));

        let page = get(addr, "/metrics").await;
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(page.contains("content-type: text/plain; version=0.0.4"), "{page}");
        assert!(page.contains("# TYPE pgshunt_hold_seconds histogram"), "{page}");
        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 503"));
        registry.set_ready(true);
        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200"));
        registry.set_home_answers(false);
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(
            get(addr, "/healthz").await.starts_with("HTTP/1.1 200"),
            "it need not be restarted"
        );
        assert!(get(addr, "/nothing").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }
}
