namespace Virtbus.Cli.Verbs;

/// <summary>The command line of a guest's QEMU, and the files that it needs.</summary>
internal sealed record VmCommandLineAnswer(IReadOnlyList<string> Arguments, string Kernel, string Initramfs, string CacheFolder);
