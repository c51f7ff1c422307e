"""The cases of shared/faults.md, by number: `test_fault_NN_<condition>_<outcome>`, marked `@pytest.mark.fault(NN)`."""
