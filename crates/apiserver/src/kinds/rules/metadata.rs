//! Checks of metadata inside of templates.

use coracle_machinery::FieldPath;
use coracle_machinery::meta::validate_labels;
use coracle_machinery::names::qualified_name_errors;
use serde_json::Value;

use super::Errors;
use super::text::check;

/// Labels and annotation keys of a template's metadata.
pub(super) fn template_metadata(errors: &mut Errors, template: &Value, path: &FieldPath) {
    let metadata = &template["metadata"];
    let at = path.child("labels");
    errors.extend(validate_labels(&metadata["labels"], &at));
    let at = path.child("annotations");
    for key in metadata["annotations"].as_object().into_iter().flatten() {
        check(errors, &at, &key.0.to_lowercase(), qualified_name_errors);
    }
}
