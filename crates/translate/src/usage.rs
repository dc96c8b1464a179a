//! What pods of others leave of a node, for a scheduler inside that does not
//! see them.

use coracle_machinery::Quantity;
use coracle_machinery::resources::Amounts;
use serde_json::{Value, json};

/// Takes from a node's `allocatable` what so many pods of others need; nothing
/// gets less than zero.
pub fn leave(node: &mut Value, pods: i64, needs: &Amounts) {
    let Some(allocatable) = node
        .pointer_mut("/status/allocatable")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let mut take = |name: &str, amount: Quantity| {
        let Some(Ok(has)) = allocatable.get(name).map(Quantity::from_value) else {
            return;
        };
        let left = (has - amount).max(Quantity::default());
        allocatable.insert(name.to_owned(), json!(left.to_string()));
    };
    for (name, amount) in needs {
        take(name, *amount);
    }
    take("pods", Quantity::from_units(pods));
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_machinery::resources::amounts;

    #[test]
    fn others_leave_what_they_do_not_need() {
        let needs = amounts(Some(
            &json!({"cpu": "3", "memory": "18Gi", "example.com/fpga": "1"}),
        ));
        let mut node = json!({"status": {"allocatable":
            {"cpu": "2", "memory": "8Gi", "pods": "110", "example.com/gpu": "1"}}});
        leave(&mut node, 10, &needs);
        assert_eq!(
            node["status"]["allocatable"],
            json!({"cpu": "0", "memory": "0", "pods": "100", "example.com/gpu": "1"})
        );
        let mut bare = json!({"status": {}});
        leave(&mut bare, 1, &needs);
        assert_eq!(bare, json!({"status": {}}));
    }
}
