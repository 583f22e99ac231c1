//! The rows of every SHOW: what is asked for, and who answers.
//!
//! A figure is counted or it is not shown. Where PgBouncer has a table for something that pgshunt does
//! not have (DNS zones, peers), the table is there and empty.

mod cluster;
mod connections;
mod databases;
mod figures;
mod timestamp;

use super::command::Show;
use super::reply::Value;
use super::{COMPATIBLE, ConsoleContext};
use crate::catalog::CatalogError;
use crate::moves::MoveError;
use crate::topology::{NodeId, RoutingTable};

pub use cluster::milliseconds;
pub use databases::names as databases;

type Row = Vec<Value>;

macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$(Value::from($value)),*] };
}
use row;

#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Moves(#[from] MoveError),
    #[error("the control runtime has stopped")]
    Stopped,
}

pub async fn rows(ctx: &ConsoleContext, show: Show) -> Result<Vec<Row>, ShowError> {
    Ok(match show {
        Show::Nodes => cluster::nodes(ctx),
        Show::Tables => cluster::tables(&ctx.store.routes().load()),
        Show::Shards => cluster::shards(ctx),
        Show::Placements => cluster::placements(ctx).await?,
        Show::Moves => cluster::moves(ctx).await?,
        Show::Clients => connections::clients(ctx),
        Show::Servers => connections::servers(ctx),
        Show::Sockets => connections::sockets(ctx, false),
        Show::ActiveSockets => connections::sockets(ctx, true),
        Show::Pools => connections::pools(ctx),
        Show::Users => connections::users(ctx),
        Show::Stats => figures::stats(ctx),
        Show::StatsTotals => figures::stats_totals(ctx),
        Show::StatsAverages => figures::stats_averages(ctx),
        Show::Totals => figures::totals(ctx),
        Show::Databases => databases::databases(ctx),
        Show::Lists => databases::lists(ctx),
        Show::State => databases::state(ctx),
        Show::Config => databases::configuration(ctx).await?,
        Show::Mem => databases::memory(),
        Show::DnsHosts | Show::DnsZones | Show::Peers | Show::PeerPools | Show::Help => Vec::new(),
        Show::Version => {
            let ours = env!("CARGO_PKG_VERSION");
            vec![row![format!("PgBouncer {COMPATIBLE} (pgshunt {ours})")]]
        }
    })
}

fn yes_no(b: bool) -> &'static str {
    if b { "yes" } else { "no" }
}

fn node_name(routes: &RoutingTable, id: NodeId) -> String {
    routes.node(id).map_or_else(|| format!("({id})"), |n| n.name.clone())
}

/// Runs something that asks a node on the control runtime.
async fn on_control<T: Send + 'static>(
    ctx: &ConsoleContext,
    job: impl Future<Output = Result<T, ShowError>> + Send + 'static,
) -> Result<T, ShowError> {
    ctx.control.spawn(job).await.unwrap_or(Err(ShowError::Stopped))
}
