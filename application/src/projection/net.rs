//! What a plan changes in the end, in the order in which it has to be projected.

use std::collections::HashMap;

use outrigger_domain::{Plan, RowKey};
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

/// The rows of a plan as groups that stand or fall together, by their positions in [`Plan::rows`]: parents before
/// children. Rows that refer to each other in a circle are one group; every other row is a group of its own.
pub fn groups(plan: &Plan) -> Vec<Vec<usize>> {
    let change = |row: usize| &plan.log[plan.rows[row].entry].change;
    let position: HashMap<&RowKey, usize> = (0..plan.rows.len()).map(|row| (&change(row).row, row)).collect();
    let mut references: DiGraph<usize, ()> = DiGraph::new();
    for row in 0..plan.rows.len() {
        references.add_node(row);
    }
    for row in 0..plan.rows.len() {
        for parent in change(row).parents.iter().filter_map(|parent| position.get(parent)) {
            references.add_edge(NodeIndex::new(row), NodeIndex::new(*parent), ());
        }
    }
    // Tarjan's algorithm gives a component after those it points to: here, parents first.
    let mut groups: Vec<Vec<usize>> = tarjan_scc(&references)
        .into_iter()
        .map(|component| component.into_iter().map(NodeIndex::index).collect())
        .collect();
    groups.iter_mut().for_each(|group: &mut Vec<usize>| group.sort_unstable());
    groups
}
