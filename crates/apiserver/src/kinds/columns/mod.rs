//! The columns of `kubectl get` for built-in kinds, after
//! `k8s.io/kubernetes/pkg/printers/internalversion`.

use std::sync::Arc;

use coracle_machinery::object;
use serde_json::Value;

use crate::kind::{Column, TableConvertor};

/// Columns and the function that fills them.
struct Table {
    columns: Vec<Column>,
    cells: fn(&Value, i64) -> Vec<Value>,
}

impl TableConvertor for Table {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        (self.cells)(object, now)
    }
}

/// Title, type and priority of each column. The column `Name` is the name
/// column.
fn table(
    columns: &[(&'static str, &'static str, i32)],
    cells: fn(&Value, i64) -> Vec<Value>,
) -> Arc<dyn TableConvertor> {
    let columns = columns
        .iter()
        .map(|(name, r#type, priority)| Column {
            name: (*name).into(),
            r#type: (*r#type).into(),
            format: if *name == "Name" { "name" } else { "" }.into(),
            description: "".into(),
            priority: *priority,
        })
        .collect();
    Arc::new(Table { columns, cells })
}

/// What is shown of a kind that has no columns of its own.
pub fn default_table() -> Arc<dyn TableConvertor> {
    table(
        &[("Name", "string", 0), ("Created At", "date", 0)],
        |o, _| {
            vec![
                object::name(o).into(),
                object::text(o, "/metadata/creationTimestamp").into(),
            ]
        },
    )
}
