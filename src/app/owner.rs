//! Keeps the claim on the catalog: lost with its session when home restarts, it is claimed again; if
//! another pgshunt was quicker, nothing is served here until that one is gone.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Store;
use crate::catalog::owner::{ClaimError, Owner};
use crate::gate::{Gates, Scope};

/// As long as it takes: transactions that are open may end.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

pub async fn keep(mut owner: Owner, gates: Gates, store: Arc<Store>) {
    loop {
        owner.lost().await;
        tracing::info!("the session that holds the catalog is lost; it is claimed again");
        // While home is away nobody else can claim it either, so what is known is still true.
        let Err(taken) = claim_again(&mut owner).await else {
            tracing::info!("the catalog is ours again");
            continue;
        };
        tracing::error!(error = %taken, "nothing is served here meanwhile");
        let held = async {
            let closed = gates.close(Scope::All, FOREVER, None).await;
            std::future::pending::<()>().await;
            drop(closed);
        };
        tokio::select! {
            () = held => {}
            () = wait_for_it(&mut owner, &store) => {}
        }
        tracing::info!("the catalog is ours again");
    }
}

/// `Err`: another has it.
async fn claim_again(owner: &mut Owner) -> Result<(), ClaimError> {
    loop {
        match owner.claim_again().await {
            Ok(true) => return Ok(()),
            Ok(false) => owner.pause().await,
            Err(e @ ClaimError::Taken { .. }) => return Err(e),
            Err(ClaimError::Catalog(_)) => owner.pause().await,
        }
    }
}

async fn wait_for_it(owner: &mut Owner, store: &Store) {
    while claim_again(owner).await.is_err() {
        owner.pause().await;
    }
    // Whatever the other did is known before anything is served.
    while let Err(error) = store.reload().await {
        tracing::warn!(%error, "the catalog cannot be read");
        owner.pause().await;
    }
}
