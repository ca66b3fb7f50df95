"""The experiment library of the capad rig controller: methods, procedures, runtime, bundles."""
