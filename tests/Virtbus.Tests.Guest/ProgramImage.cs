using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>
/// A disk with our program as its users build it, <c>real_driver</c> beside it, the .NET runtime and the libraries of both: all that they need of a guest is its
/// kernel.
/// </summary>
internal static class ProgramImage
{
    // Built by the run of all tests before; alone a test may have to wait for it.
    private static readonly TimeSpan BuildDeadline = TimeSpan.FromMinutes(10);

    private const string Make = """
        set -e
        PATH=$PATH:/usr/sbin:/sbin
        program=$1 driver=$2 dotnet=$3 root=$4 image=$5
        mkdir -p $root/virtbus $root/dotnet/shared $root/dotnet/host $root/proc $root/sys $root/dev $root/tmp $root/run
        cp -r $program/* $root/virtbus
        cp $driver/real_driver* $root/virtbus
        find $root -name '*.pdb' -delete
        cp -r $dotnet/host/fxr $root/dotnet/host
        for framework in Microsoft.NETCore.App Microsoft.AspNetCore.App; do
            mkdir $root/dotnet/shared/$framework
            cp -r $dotnet/shared/$framework/$6 $root/dotnet/shared/$framework
        done

        """ + ToolImage.CopyLibraries + """
        truncate -s 200M $image
        mke2fs -q -t ext4 -O ^has_journal -m 0 -d $root $image
        """;

    /// <summary>Makes it.</summary>
    /// <param name="fabric">Whose folder it is put in.</param>
    /// <returns>Its path.</returns>
    public static async Task<string> MakeAsync(TestFabric fabric)
    {
        var tree = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(tree, "Virtbus.slnx")))
            tree = Path.GetDirectoryName(tree)!;
        await RunAsync(fabric, Path.Combine(tree, "virtbus"), "--build", "--version");
        var program = (await File.ReadAllTextAsync(Path.Combine(tree, "artifacts/program/current"))).Trim();
        var folder = Path.GetDirectoryName(fabric.Runtime)!;
        var image = Path.Combine(folder, "program.img");
        var dotnet = (await File.ReadAllTextAsync(Path.Combine(program, "dotnet-root"))).Trim();
        var driver = Path.Combine(AppContext.BaseDirectory, "../../Virtbus.Tests.Guest.Module/release");
        await RunAsync(fabric, "sh", "-c", Make, "sh", program, driver, dotnet, Path.Combine(folder, "program"), image, Environment.Version.ToString());
        return image;
    }

    private static async Task RunAsync(TestFabric fabric, string program, params string[] arguments)
    {
        var run = await TestFabric.EndAsync(fabric.StartProgram(program, arguments), within: BuildDeadline);
        Assert.True(run.Code == 0, $"{program}: {run}");
    }
}
