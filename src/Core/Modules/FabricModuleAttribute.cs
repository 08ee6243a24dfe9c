namespace Virtbus.Core;

/// <summary>Makes an assembly a module of a fabric.</summary>
/// <param name="name">The module's name, which is the assembly's file name without <c>.dll</c>.</param>
/// <param name="entry">A public class with a parameterless constructor that implements <see cref="IFabricModule"/>.</param>
[AttributeUsage(AttributeTargets.Assembly)]
public sealed class FabricModuleAttribute(string name, Type entry) : Attribute
{
    /// <summary>The module's name.</summary>
    public string Name { get; } = name;

    /// <summary>The class whose object is the module's beginning and end.</summary>
    public Type Entry { get; } = entry;

    /// <summary>One line on what the module is.</summary>
    public string Description { get; set; } = "";
}
