using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>A program that runs a QEMU of this machine with more arguments than it is given.</summary>
internal static class QemuScript
{
    /// <summary>Writes one.</summary>
    /// <param name="fabric">Whose folder it is put in.</param>
    /// <param name="kind">A device that the QEMU must have; the first of this machine that has it is taken.</param>
    /// <param name="before">What the shell does before, with the arguments.</param>
    /// <param name="after">What stands behind the arguments.</param>
    /// <returns>Its path.</returns>
    public static async Task<string> WriteAsync(TestFabric fabric, VmDeviceKind kind, string before, string after)
    {
        // A first one is made, which takes what the mirror and the host let it.
        var qemu = await new QemuFinder().FindAsync([QemuFinder.DeviceName(kind)], TestContext.Current.CancellationToken);
        var command = string.Join(' ', qemu.Command.Select(part => $"'{part.Replace("'", "'\\''", StringComparison.Ordinal)}'"));
        var program = fabric.Write("qemu", $"#!/bin/sh\n{before}exec {command} \"$@\" {after}\n");
        File.SetUnixFileMode(program, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        return program;
    }
}
