//! Rows of the kinds that CustomResourceDefinitions define.

use std::sync::Arc;

use coracle_machinery::gvk::Name;
use coracle_machinery::schema::Schema;
use coracle_machinery::{FieldError, FieldPath, GroupVersionKind, object, time};
use serde_json::Value;

use super::jsonpath::JsonPath;
use crate::kind::{
    Column, Conversion, Kind, ScalePaths, Scope, StoredAs, Strategy, Subresource, TableConvertor,
    Verb,
};

const VIEW: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// The rows of a definition, one for each served version, the stored version
/// first. The definition has passed its own validation, but for the schemas.
///
/// # Errors
/// What is wrong with a schema.
pub fn custom(crd: &Value) -> Result<Vec<Kind>, Vec<FieldError>> {
    let mut versions: Vec<(usize, &Value)> = object::items(crd, "/spec/versions")
        .iter()
        .enumerate()
        .collect();
    versions.retain(|(_, v)| v["served"] == true);
    versions.sort_by_key(|(_, v)| v["storage"] != true);
    let mut rows = Vec::new();
    for (index, version) in versions {
        rows.push(row(crd, index, version)?);
    }
    // What was stored before a default was added gets it when it is read.
    let stored = rows.first().map(|r: &Kind| r.gvk.clone());
    for row in &mut rows {
        let schema = row.strategy.schema().filter(Schema::has_defaults);
        if let (Some(schema), Some(gvk)) = (schema, stored.clone()) {
            let conversion = Arc::new(DefaultsOnRead(schema));
            row.stored_as = Some(StoredAs { gvk, conversion });
        }
    }
    Ok(rows)
}

/// Versions of custom kinds differ in their `apiVersion` alone; what is read
/// is completed by the defaults of its version.
struct DefaultsOnRead(Schema);

impl Conversion for DefaultsOnRead {
    fn to_stored(&self, object: Value) -> Value {
        object
    }

    fn to_served(&self, mut object: Value) -> Value {
        self.0.default(&mut object);
        object
    }
}

fn row(crd: &Value, index: usize, version: &Value) -> Result<Kind, Vec<FieldError>> {
    let text = |pointer: &str| object::text(crd, pointer).to_owned();
    let gvk = GroupVersionKind::new(
        text("/spec/group"),
        object::text(version, "/name").to_owned(),
        text("/spec/names/kind"),
    );
    let names = |pointer: &str| -> Vec<Name> {
        let texts = object::items(crd, pointer).iter().filter_map(Value::as_str);
        texts.map(|t| Name::from(t.to_owned())).collect()
    };
    let schema = match &version["schema"]["openAPIV3Schema"] {
        Value::Null => Schema::free_object(),
        schema => {
            let at = FieldPath::new("spec").child("versions").index(index);
            Schema::from_crd_at(schema, &at.child("schema").child("openAPIV3Schema"))?
        }
    };
    let mut kind = Kind::plain(gvk, text("/spec/names/plural"));
    let singular = text("/spec/names/singular");
    if !singular.is_empty() {
        kind.singular = singular.into();
    }
    kind.short_names = names("/spec/names/shortNames");
    kind.categories = names("/spec/names/categories");
    if object::text(crd, "/spec/scope") == "Cluster" {
        kind.scope = Scope::Cluster;
    }
    let subresources = &version["subresources"];
    if subresources["status"].is_object() {
        kind.subresources.push(Subresource {
            name: "status",
            kind: None,
            verbs: VIEW,
        });
    }
    if subresources["scale"].is_object() {
        kind.subresources.push(Subresource {
            name: "scale",
            kind: Some(GroupVersionKind::new("autoscaling", "v1", "Scale")),
            verbs: VIEW,
        });
    }
    kind.strategy = Arc::new(Custom {
        schema,
        scale: scale_paths(&subresources["scale"]),
        fields: selectable_fields(crd),
    });
    if version["deprecated"] == true {
        let warning = object::text(version, "/deprecationWarning");
        kind.deprecation = Some(if warning.is_empty() {
            let gvk = &kind.gvk;
            format!("{} {} is deprecated", gvk.api_version(), gvk.kind).into()
        } else {
            warning.to_owned().into()
        });
    }
    kind.table = Arc::new(table(version));
    Ok(kind)
}

/// Fields that selectors may name: those of all served versions, since all show
/// the same objects.
fn selectable_fields(crd: &Value) -> Vec<String> {
    let versions = object::items(crd, "/spec/versions").iter();
    let served = versions.filter(|version| version["served"] == true);
    let fields = served.flat_map(|version| object::items(version, "/selectableFields"));
    let paths = fields.filter_map(|field| field["jsonPath"].as_str());
    let mut paths: Vec<String> = paths
        .map(|path| path.trim_start_matches('.').to_owned())
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let pointer = |key: &str| -> Name {
        match object::text(scale, &format!("/{key}")) {
            // The empty pointer would be the whole object.
            "" => "/".into(),
            path => path.replace('.', "/").into(),
        }
    };
    ScalePaths {
        spec_replicas: pointer("specReplicasPath"),
        status_replicas: pointer("statusReplicasPath"),
        selector: pointer("labelSelectorPath"),
    }
}

/// The rules of custom objects: those of their schema.
struct Custom {
    schema: Schema,
    scale: ScalePaths,
    fields: Vec<String>,
}

impl Strategy for Custom {
    fn schema(&self) -> Option<Schema> {
        Some(self.schema.clone())
    }

    fn scale_paths(&self) -> ScalePaths {
        self.scale.clone()
    }

    fn default(&self, object: &mut Value) {
        self.schema.default(object);
    }

    // No `validate`: of a changed object, what it was before counts.
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        self.schema.validate(object, None)
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        self.schema.validate(object, Some(old))
    }

    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        self.schema.validate(object, Some(old))
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn added_fields(&self) -> &[String] {
        &self.fields
    }
}

/// The columns that the definition asks for.
struct CustomTable {
    columns: Vec<Column>,
    /// Of all columns but the first, which is the name.
    paths: Vec<Option<JsonPath>>,
}

fn column(name: &str, r#type: &str, format: &str, description: &str, priority: i32) -> Column {
    Column {
        name: name.to_owned().into(),
        r#type: r#type.to_owned().into(),
        format: format.to_owned().into(),
        description: description.to_owned().into(),
        priority,
    }
}

fn table(version: &Value) -> CustomTable {
    let mut columns = vec![column("Name", "string", "name", "", 0)];
    let mut paths = Vec::new();
    let wanted = object::items(version, "/additionalPrinterColumns");
    for wanted in wanted {
        let text = |key: &str| object::text(wanted, &format!("/{key}"));
        let priority = wanted["priority"].as_i64().unwrap_or(0);
        columns.push(column(
            text("name"),
            text("type"),
            text("format"),
            text("description"),
            i32::try_from(priority).unwrap_or(i32::MAX),
        ));
        paths.push(JsonPath::parse(text("jsonPath")));
    }
    if wanted.is_empty() {
        columns.push(column("Age", "date", "", "", 0));
        paths.push(JsonPath::parse(".metadata.creationTimestamp"));
    }
    CustomTable { columns, paths }
}

impl TableConvertor for CustomTable {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let mut cells = vec![Value::from(object::name(object))];
        for (column, path) in self.columns.iter().skip(1).zip(&self.paths) {
            let found = path.as_ref().map(|p| p.find(object)).unwrap_or_default();
            cells.push(cell(&column.r#type, &found, now));
        }
        cells
    }
}

/// What a column of that type shows of the values found.
fn cell(r#type: &str, found: &[&Value], now: i64) -> Value {
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match r#type {
        "integer" => match first.as_i64() {
            Some(number) => number.into(),
            None => first.as_f64().map_or(Value::Null, |n| n.trunc().into()),
        },
        "number" if first.is_number() => (*first).clone(),
        "boolean" if first.is_boolean() => (*first).clone(),
        "number" | "boolean" => Value::Null,
        "date" => match first.as_str() {
            Some(text) => time::age(text, now).into(),
            None => Value::Null,
        },
        _ => {
            let texts: Vec<String> = found
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            texts.join(" ").into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn crd() -> Value {
        json!({"spec": {
            "group": "stable.example.com",
            "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"]},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {
                    "name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "spec": {"type": "object", "properties": {
                            "cron": {"type": "string"},
                            "replicas": {"type": "integer", "default": 2, "minimum": 1},
                        }},
                        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
                    }}},
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                    "additionalPrinterColumns": [
                        {"name": "Cron", "type": "string", "jsonPath": ".spec.cron"},
                        {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                    ],
                },
                {"name": "v0", "served": false, "storage": false},
            ],
        }})
    }

    #[test]
    fn a_definition_becomes_rows() {
        let rows = custom(&crd()).unwrap();
        let versions: Vec<&str> = rows.iter().map(|k| k.gvk.version.as_ref()).collect();
        assert_eq!(versions, ["v1", "v1beta1"]);
        let row = &rows[0];
        assert!(row.has_subresource("scale") && row.has_subresource("status"));
        assert_eq!(row.strategy.scale_paths().spec_replicas, "/spec/replicas");
        let mut object = json!({"metadata": {"name": "x", "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": {"cron": "* *"}});
        row.strategy.default(&mut object);
        assert_eq!(object["spec"]["replicas"], 2);
        assert!(row.strategy.validate_create(&object).is_empty());
        assert_eq!(
            row.table.cells(&object, 60),
            [json!("x"), json!("* *"), json!(2), json!("60s")]
        );
        let old = object.clone();
        object["status"] = json!({"replicas": "many"});
        assert_eq!(row.strategy.validate_status_update(&object, &old).len(), 1);
        object = old.clone();
        object["spec"]["replicas"] = json!(0);
        assert_eq!(row.strategy.validate_create(&object).len(), 1);
        assert_eq!(row.strategy.validate_update(&object, &old).len(), 1);
        assert!(row.strategy.validate_update(&object, &object).is_empty());
        assert_eq!(rows[1].table.columns().len(), 2);
    }

    #[test]
    fn a_bad_schema_is_refused() {
        let mut crd = crd();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
            json!({"type": "object", "properties": {"a": {}}});
        let errors = custom(&crd).err().unwrap();
        assert!(
            errors[0]
                .to_string()
                .starts_with("spec.versions[0].schema.openAPIV3Schema"),
            "{}",
            errors[0]
        );
    }
}
