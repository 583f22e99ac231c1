//! EXPLAIN (ROUTE) tells the nodes as well, which the plan does not know: where a statement's shards are is found
//! each time it is carried out.

use std::sync::Arc;

use crate::router::place::{Place, Values, place};
use crate::router::plan::{Control, NODES, Plan, Statement};
use crate::topology::{NodeId, RoutingTable};

/// The plan, with the nodes' names in what EXPLAIN (ROUTE) tells.
pub(super) fn told(plan: &Arc<Plan>, values: &dyn Values, routes: &RoutingTable) -> Arc<Plan> {
    let (Some(Control::Route { sql, of }), [statement]) = (plan.single(), &*plan.statements) else {
        return plan.clone();
    };
    let name = |id: &NodeId| routes.node(*id).map_or_else(|| id.to_string(), |n| n.name.clone());
    let names = match place(of, values, routes) {
        Ok(Place::Node { node, .. }) => name(&node),
        Ok(Place::Every { nodes, .. }) => nodes.iter().map(name).collect::<Vec<_>>().join(", "),
        Ok(Place::Any) | Err(_) => "known when it is carried out".to_owned(),
    };
    let quoted = names.replace('\\', "\\\\").replace('\'', "''");
    let control = Control::Route { sql: sql.replace(NODES, &quoted), of: of.clone() };
    let statements = vec![Statement { control, span: statement.span }];
    Arc::new(Plan { statements, ..(**plan).clone() })
}
