namespace Virtbus.Core;

/// <summary>A module's beginning and end.</summary>
public interface IFabricModule
{
    /// <summary>Registers what the module has, through the context. An error unloads the module again.</summary>
    /// <param name="context">The module's connection to the fabric.</param>
    ValueTask InitAsync(ModuleContext context);

    /// <summary>Takes out what <see cref="InitAsync"/> put in. Drivers registered through the context go by themselves, after this; what was added through it went before.</summary>
    ValueTask ExitAsync() => default;
}
