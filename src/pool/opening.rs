//! How a pool gets another connection: on the runtime of the worker that is to have it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Pool;
use super::state::{ConnId, Worker};
use crate::backend::login::{self, Target};

/// A request to open a connection on a worker's own runtime.
pub struct OpenRequest {
    pub(super) pool: Arc<Pool>,
    pub(super) worker: Worker,
}

impl OpenRequest {
    /// Opens the connection and hands it to the pool, or tells the pool why not.
    pub async fn carry_out(self) {
        let pool = self.pool;
        let credentials = pool.credentials();
        let tls = pool.home.tls.load_full();
        let timeout = pool.home.config.load().connect_timeout;
        let id = ConnId(pool.home.next_id.fetch_add(1, Ordering::Relaxed));
        let target = Target {
            node: &pool.node,
            database: &pool.key.database,
            user: &pool.key.user,
            parameters: &[],
            credentials: &credentials,
            tls: &tls,
            registry: &pool.home.registry,
            worker: self.worker,
        };
        let opened = login::connect(target, id, timeout).await;
        let mut fx = Vec::new();
        match opened {
            Ok(mut conn) => {
                pool.share(conn.facts());
                pool.served.store(true, Ordering::Relaxed);
                if id.0 < pool.fresh_from.load(Ordering::Acquire) {
                    conn.info.retire();
                }
                conn.rests();
                pool.home.registry.worker(self.worker).servers_opened.inc();
                let mut shared = pool.lock();
                shared.bury_dead_for_line();
                shared.idle.insert(id, conn);
                shared.state.opened(Instant::now(), id, self.worker, &mut fx);
                pool.act(shared, fx, None);
            }
            Err(error) => {
                tracing::warn!(node = %pool.node.name, user = %pool.key.user, %error, "login failed");
                let mut shared = pool.lock();
                shared.bury_dead_for_line();
                shared.state.open_failed(&mut fx);
                pool.act(shared, fx, Some(error));
            }
        }
    }
}
