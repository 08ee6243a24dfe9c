using System.Reflection;
using Virtbus.Buses.Pci;
using Virtbus.Pci;

namespace Virtbus.Tests.House;

/// <summary>The wall between drivers and hardware: a driver has a device of a bus, and no way past the bus to what is behind it.</summary>
public sealed class WallTests
{
    [Fact]
    public void No_public_path_leads_from_a_device_to_the_function_behind_it()
    {
        var open = new Queue<(Type Type, string Path)>([(typeof(PciDevice), nameof(PciDevice))]);
        var seen = new HashSet<Type> { typeof(PciDevice) };
        var paths = new List<string>();
        while (open.TryDequeue(out var next))
        {
            foreach (var (name, type) in Answers(next.Type).SelectMany(a => Parts(a.Type).Select(t => (a.Name, t))))
            {
                var path = $"{next.Path}.{name}";
                if (typeof(IPciFunction).IsAssignableFrom(type))
                    paths.Add(path);
                else if (type.Namespace?.StartsWith("Virtbus.", StringComparison.Ordinal) == true && seen.Add(type))
                    open.Enqueue((type, path));
            }
        }
        Assert.Empty(paths);
        // It went somewhere: regions and vectors lead back to the device, the device to what the core knows of it.
        Assert.Superset(new HashSet<Type> { typeof(PciRegion), typeof(PciVector), typeof(Virtbus.Core.Bus), typeof(Virtbus.Memory.Dma.DmaPort) }, seen);
    }

    [Theory]
    [InlineData("IPciFunction")]
    [InlineData("Virtbus.Hardware")]
    public void No_driver_and_no_subsystem_names_what_is_behind_the_bus(string name)
    {
        var source = Path.Combine(LayeringTests.RepositoryRoot(), "src");
        string[] files = [.. new[] { "Drivers", "Subsystems" }.SelectMany(f => Directory.EnumerateFiles(Path.Combine(source, f), "*.cs", SearchOption.AllDirectories))];
        Assert.True(files.Length > 50);
        Assert.DoesNotContain(files, f => File.ReadAllText(f).Contains(name, StringComparison.Ordinal));
    }

    // What a user of another assembly gets out of a type.
    private static IEnumerable<(string Name, Type Type)> Answers(Type type)
    {
        const BindingFlags All = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance | BindingFlags.Static;
        foreach (var method in type.GetMethods(All).Where(static m => m.IsPublic || m.IsFamily || m.IsFamilyOrAssembly))
        {
            yield return (method.Name, method.ReturnType);
            foreach (var parameter in method.GetParameters().Where(static p => p.IsOut))
                yield return ($"{method.Name}(out {parameter.Name})", parameter.ParameterType);
        }
        foreach (var field in type.GetFields(All).Where(static f => f.IsPublic || f.IsFamily || f.IsFamilyOrAssembly))
            yield return (field.Name, field.FieldType);
    }

    private static IEnumerable<Type> Parts(Type type)
    {
        if (type.HasElementType)
            return Parts(type.GetElementType()!);
        return type.IsGenericType ? [type, .. type.GetGenericArguments().SelectMany(Parts)] : [type];
    }
}
