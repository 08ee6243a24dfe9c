using Virtbus.Core;
using Virtbus.Samples;

[assembly: FabricModule("aux_test_contract", typeof(ContractModule), Description = "What the sample's creator and consumers share")]

namespace Virtbus.Samples;

/// <summary>
/// A module that registers nothing: its types are what creator and consumers share. Being a module of its own, it is loaded with the first
/// of them and unloaded after the last, so those load and unload in any order.
/// </summary>
public sealed class ContractModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context) => default;
}
