//! Notes in the catalog whose clients ask for the values that they have drawn from sequences.

use std::collections::HashSet;
use std::sync::Arc;

use super::CATALOG_POLL;
use crate::catalog::Store;
use crate::client::shared::Shared;

/// Notes those that are not among the `noted` yet, for as long as the process lives.
pub async fn keep(store: Arc<Store>, shared: Arc<Shared>, mut noted: HashSet<(String, String)>) {
    loop {
        tokio::time::sleep(CATALOG_POLL).await;
        let new: Vec<_> = shared.pools.asking().difference(&noted).cloned().collect();
        if new.is_empty() {
            continue;
        }
        match store.note_asking(&new).await {
            Ok(()) => noted.extend(new),
            // It is tried again; until then it is only this process that knows.
            Err(error) => tracing::warn!(%error, "who asks for sequences' values is not noted"),
        }
    }
}
