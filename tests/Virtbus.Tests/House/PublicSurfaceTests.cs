
namespace Virtbus.Tests.House;

/// <summary>
/// The public surface of each library is a reviewed text beside its project, which the compiler holds it against (RS0016, RS0017): a library without
/// the text would have no such check. TD-08, VA-12.
/// </summary>
public sealed class PublicSurfaceTests
{
    // The program's own, which nobody refers to.
    private static readonly string[] Programs = ["Virtbus.Cli", "Virtbus.Daemon"];

    // And the modules that others are written against.
    private static readonly string[] Contracts = ["nic", "nic_rings", "virtio_pci_admin"];

    [Fact]
    public void Every_library_has_its_reviewed_surface_beside_it()
    {
        var source = Path.Combine(LayeringTests.RepositoryRoot(), "src");
        var libraries = Directory.EnumerateFiles(source, "*.csproj", SearchOption.AllDirectories)
            .Where(static p => Path.GetFileNameWithoutExtension(p) is var name && (Contracts.Contains(name) || (name.StartsWith("Virtbus.", StringComparison.Ordinal) && !Programs.Contains(name)))).ToList();
        Assert.True(libraries.Count >= 19);
        Assert.All(libraries, static library =>
        {
            foreach (var text in new[] { "PublicAPI.Shipped.txt", "PublicAPI.Unshipped.txt" })
                Assert.StartsWith("#nullable enable\n", File.ReadAllText(Path.Combine(Path.GetDirectoryName(library)!, text)), StringComparison.Ordinal);
        });
        // Not without warnings that are errors.
        Assert.Contains("<TreatWarningsAsErrors>true</TreatWarningsAsErrors>", File.ReadAllText(Path.Combine(source, "..", "Directory.Build.props")), StringComparison.Ordinal);
        Assert.Contains("Microsoft.CodeAnalysis.PublicApiAnalyzers", File.ReadAllText(Path.Combine(source, "Directory.Build.props")), StringComparison.Ordinal);
    }

    /// <summary>Who has a virtual function asks by that alone: neither its owner nor a way to give any command is offered. VA-06, VA-08.</summary>
    [Fact]
    public void Administration_gives_commands_by_the_virtual_function_alone()
    {
        var surface = File.ReadAllLines(Path.Combine(LayeringTests.RepositoryRoot(), "src", "Drivers", "VirtioPciAdmin", "PublicAPI.Unshipped.txt"))[1..]
            .Where(static line => !line.Contains("VirtioPciAdminModule", StringComparison.Ordinal)).ToList();
        const string Class = "Virtbus.Drivers.VirtioAdmin.VirtioPciAdmin";
        Assert.Contains(Class, surface);
        Assert.All(surface.Where(static line => line != Class), static line => Assert.Matches($@"^static {Class}\.(Has|Try)\w+\(Virtbus\.Buses\.Pci\.PciDevice! vf[,)]", line));
        Assert.Equal(13, surface.Count - 1);
    }
}
