namespace Virtbus.Vm;

/// <summary>A QEMU that can be run.</summary>
/// <param name="Path">The qemu-system-x86_64 program.</param>
/// <param name="Command">The program to execute and the arguments that come before QEMU's own.</param>
public sealed record QemuProgram(string Path, IReadOnlyList<string> Command)
{
    /// <summary>A QEMU that is installed on this machine.</summary>
    /// <param name="path">The program.</param>
    public static QemuProgram Installed(string path) => new(path, [path]);
}
