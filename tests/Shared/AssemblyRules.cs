[assembly: System.Runtime.Versioning.SupportedOSPlatform("linux")]

// Descriptors and mappings of the whole process are counted, so tests run one after the other.
[assembly: Xunit.v3.Parallelization(Mode = Xunit.Sdk.ParallelMode.None)]
